//! Storage of rows: where the bytes of a cache are held, and counted.

use sparkv_kernels::{KvRun, RowLayout, Rows};

use crate::settings::PACK_BLOCK;

/// Rows by which a tail grows. A block is a multiple of it.
pub(crate) const TAIL_STEP: usize = 8;

/// How much room is made when a store is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// [`PACK_BLOCK`] rows: for rows that come by blocks.
    Block,
    /// [`TAIL_STEP`] rows: for rows that come one by one and leave by blocks.
    Tail,
    /// A small share of what is held: for rows that come one by one and stay.
    Share,
}

impl Growth {
    /// Rows to make room for, where `held` rows fill all there is.
    pub(crate) fn rows(self, held: usize) -> usize {
        match self {
            Growth::Block => PACK_BLOCK,
            Growth::Tail => TAIL_STEP,
            Growth::Share => (held / 32).clamp(2, 256),
        }
    }
}

/// Rows of one layout, keys or values of one KV head, in chunks that are allocated once and never moved.
/// What is counted ([`RowStore::bytes`]) is what is allocated.
#[derive(Debug)]
pub(crate) struct RowStore {
    layout: RowLayout,
    /// Chunks of whole rows; all but the last are full.
    chunks: Vec<Box<[u8]>>,
    len: usize,
    capacity: usize,
    growth: Growth,
    /// With a limit, rows pushed beyond it overwrite the oldest.
    limit: usize,
    /// The oldest row, once the limit is reached.
    oldest: usize,
}

impl RowStore {
    /// An empty store that holds at most `limit` rows.
    pub(crate) fn new(layout: RowLayout, growth: Growth, limit: usize) -> Self {
        Self { layout, chunks: Vec::new(), len: 0, capacity: 0, growth, limit, oldest: 0 }
    }

    /// Rows held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.capacity * self.layout.row_bytes()
    }

    /// Makes room for `rows` more rows, exactly.
    pub(crate) fn reserve(&mut self, rows: usize) {
        let rows = (self.len + rows).min(self.limit).saturating_sub(self.capacity);
        if rows > 0 {
            self.chunks.push(vec![0; rows * self.layout.row_bytes()].into_boxed_slice());
            self.capacity += rows;
        }
    }

    /// Stores one more row (head_dim).
    pub(crate) fn push(&mut self, row: &[f32]) {
        if self.limit == 0 {
            return;
        }
        let layout = self.layout;
        if self.len == self.limit {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % self.limit;
            if let Some(bytes) = self.row_mut(oldest) {
                layout.encode(row, bytes);
            }
            return;
        }
        if self.len == self.capacity {
            self.reserve(self.growth.rows(self.len));
        }
        if let Some(bytes) = self.row_mut(self.len) {
            layout.encode(row, bytes);
            self.len += 1;
        }
    }

    /// Searched from the end: rows are nearly always written to the last chunk.
    fn row_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let row_bytes = self.layout.row_bytes();
        let mut start = self.capacity;
        for chunk in self.chunks.iter_mut().rev() {
            start -= chunk.len() / row_bytes;
            if index >= start {
                let offset = (index - start) * row_bytes;
                return chunk.get_mut(offset..offset + row_bytes);
            }
        }
        None
    }

    /// Removes the first [`PACK_BLOCK`] rows, in storage order, from a store that grows as a tail and was
    /// filled by [`RowStore::push`] alone. Fewer if there are not that many.
    pub(crate) fn take_block(&mut self) -> Vec<u8> {
        let full_chunks = (PACK_BLOCK / TAIL_STEP).min(self.len / TAIL_STEP);
        let block: Vec<u8> = self.chunks.drain(..full_chunks).flatten().collect();
        self.len -= full_chunks * TAIL_STEP;
        self.capacity -= full_chunks * TAIL_STEP;
        block
    }

    /// The rows held, as contiguous runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Rows<'_>> {
        let row_bytes = self.layout.row_bytes();
        let mut left = self.len * row_bytes;
        self.chunks.iter().map_while(move |chunk| {
            let bytes = chunk.get(..chunk.len().min(left))?;
            left -= bytes.len();
            (!bytes.is_empty()).then(|| Rows::new(self.layout, bytes))
        })
    }

    /// The stored form of the rows held, in storage order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.runs().flat_map(|run| run.iter())
    }

    /// Calls `visit` with the index and the decoded row (head_dim) of the rows held, in storage order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(usize, &[f32])) {
        let mut row = vec![0.0; self.layout.head_dim()];
        for (index, bytes) in self.rows().enumerate() {
            self.layout.decode(bytes, &mut row);
            visit(index, &row);
        }
    }
}

/// Keys and values of the same tokens.
#[derive(Debug)]
pub(crate) struct KvRows {
    pub(crate) keys: RowStore,
    pub(crate) values: RowStore,
}

impl KvRows {
    /// An empty store that holds at most `limit` tokens.
    pub(crate) fn new(keys: RowLayout, values: RowLayout, growth: Growth, limit: usize) -> Self {
        Self { keys: RowStore::new(keys, growth, limit), values: RowStore::new(values, growth, limit) }
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Makes room for `tokens` more, exactly.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        self.keys.reserve(tokens);
        self.values.reserve(tokens);
    }

    /// Stores one more token's key and value (head_dim each).
    pub(crate) fn push(&mut self, key: &[f32], value: &[f32]) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// The tokens held, as contiguous runs; the chunks of keys and values have the same tokens.
    pub(crate) fn runs(&self, scaled: bool) -> impl Iterator<Item = KvRun<'_>> {
        self.keys.runs().zip(self.values.runs()).map(move |(keys, values)| KvRun { keys, values, scaled })
    }
}
