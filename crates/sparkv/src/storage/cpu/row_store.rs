//! Rows of one side: dense ones one by one, quantized ones by blocks.

use std::sync::Arc;

use sparkv_kernels::dense;
use sparkv_kernels::{BLOCK, GROUP, Layout, Rows, quantize};

use super::chunk::{Chunk, SharedRows};
use crate::plan::growth::{Growth, Limit, chunk_bytes};
use crate::pool::KvPool;

/// Rows of one layout, keys or values of one KV head. What is counted ([`RowStore::bytes`]) is what is
/// allocated.
pub(crate) struct RowStore {
    layout: Layout,
    /// The first rows, where they are shared with other caches; dense ones.
    shared: Vec<SharedRows>,
    /// What follows. All but the last are full; all are whole units of the layout.
    chunks: Vec<Chunk>,
    len: usize,
    capacity: usize,
    /// Chunks are multiples of this many rows.
    unit: usize,
    growth: Growth,
    limit: Limit,
    /// The row to be overwritten next, once the limit is reached.
    oldest: usize,
    /// Whether a row was overwritten, so that the rows are not in order any more.
    overwritten: bool,
    pool: KvPool,
}

impl std::fmt::Debug for RowStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowStore")
            .field("layout", &self.layout)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl RowStore {
    /// An empty store. Where blocks are pushed, the limit and what is pinned are multiples of [`BLOCK`].
    pub(super) fn new(layout: Layout, unit: usize, growth: Growth, limit: Limit, pool: KvPool) -> Self {
        let (shared, chunks) = (Vec::new(), Vec::new());
        let oldest = limit.pinned;
        Self {
            layout,
            shared,
            chunks,
            len: 0,
            capacity: 0,
            unit,
            growth,
            limit,
            oldest,
            overwritten: false,
            pool,
        }
    }

    /// Rows held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Rows that may be pushed at once: as many as overwrite no other, at least one.
    pub(crate) fn room(&self) -> usize {
        self.limit.rows.saturating_sub(self.len).max(1)
    }

    /// Bytes allocated; for shared rows, what they would take alone.
    pub(crate) fn bytes(&self) -> usize {
        let shared = self.shared.iter().map(|shared| chunk_bytes(&self.layout, shared.rows));
        shared.chain(self.chunks.iter().map(|chunk| chunk.memory.bytes().len())).sum()
    }

    /// Bytes that pushing `rows` more would allocate.
    pub(crate) fn next_bytes(&self, rows: usize) -> usize {
        if self.len + rows <= self.capacity.min(self.limit.rows) || self.len >= self.limit.rows {
            return 0;
        }
        let wanted = self.growth.rows(self.capacity, self.unit).min(self.limit.rows - self.capacity);
        chunk_bytes(&self.layout, wanted.next_multiple_of(self.unit))
    }

    /// Rows that [`RowStore::share`] would give.
    pub(crate) fn shareable(&self) -> usize {
        if self.limit == Limit::NONE && !self.layout.is_quantized() { self.len / GROUP * GROUP } else { 0 }
    }

    /// Gives what can be shared of the rows held, whole groups: nobody writes them any more from then on. What
    /// follows them stays this store's own.
    pub(crate) fn share(&mut self) -> SharedStore {
        let whole = self.shareable();
        let mut rest = Vec::new();
        let mut reader = self.reader();
        (whole..self.len).for_each(|index| rest.extend_from_slice(reader.row(index)));
        let mut start: usize = self.shared.iter().map(|shared| shared.rows).sum();
        for chunk in std::mem::take(&mut self.chunks) {
            let rows = chunk.rows.min(whole - start);
            if rows > 0 {
                self.shared.push(SharedRows { chunk: Arc::new(chunk), rows });
            }
            start += rows;
        }
        (self.len, self.capacity) = (whole, whole);
        rest.chunks_exact(self.layout.head_dim()).for_each(|row| self.push(row));
        SharedStore { layout: self.layout, rows: self.shared.clone() }
    }

    /// Begins with the first `rows` rows, whole groups, of another store of the same layout. To be called while
    /// this one is empty.
    pub(crate) fn begin_with(&mut self, store: &SharedStore, rows: usize) {
        for shared in &store.rows {
            let rows = shared.rows.min(rows - self.len);
            if rows > 0 {
                self.shared.push(SharedRows { chunk: Arc::clone(&shared.chunk), rows });
            }
            self.len += rows;
        }
        self.capacity = self.len;
    }

    /// Makes room for `rows` rows in all, and no more than whole units take.
    pub(crate) fn reserve(&mut self, rows: usize) {
        let rows = rows.min(self.limit.rows).saturating_sub(self.capacity);
        if rows > 0 {
            let chunk = Chunk::new(&self.layout, rows.next_multiple_of(self.unit), &self.pool);
            self.capacity += chunk.rows;
            self.chunks.push(chunk);
        }
    }

    /// Stores one more row (head_dim) of a dense layout.
    pub(crate) fn push(&mut self, row: &[f32]) {
        if let Some((layout, bytes, index)) = self.next_rows(1) {
            dense::write_row(&layout, row, bytes, index);
        }
    }

    /// Takes another layout, of as many bytes, while there are no rows.
    pub(super) fn set_layout(&mut self, layout: Layout) {
        if self.len == 0 && layout.unit_bytes() == self.layout.unit_bytes() {
            self.layout = layout;
        }
    }

    /// Stores [`BLOCK`] more rows (BLOCK, head_dim). Only blocks are pushed to a store that gets any. `weights`
    /// (head_dim): what the squared errors of channels cost, where it is not all the same.
    pub(crate) fn push_block(&mut self, rows: &[f32], weights: &[f32]) {
        if let Some((layout, bytes, index)) = self.next_rows(BLOCK) {
            if layout.is_quantized() {
                let start = index / BLOCK * layout.unit_bytes();
                quantize(&layout, rows, weights, &mut bytes[start..start + layout.unit_bytes()]);
            } else {
                for (offset, row) in rows.chunks_exact(layout.head_dim()).enumerate() {
                    dense::write_row(&layout, row, bytes, index + offset);
                }
            }
        }
    }

    /// Where the next `rows` rows go: the bytes of a chunk, and the first row's place in it.
    fn next_rows(&mut self, rows: usize) -> Option<(Layout, &mut [u8], usize)> {
        let index = if self.len + rows <= self.limit.rows {
            if self.len + rows > self.capacity {
                self.reserve(self.capacity + self.growth.rows(self.capacity, self.unit));
            }
            self.len += rows;
            self.len - rows
        } else if self.limit.rows == 0 {
            return None;
        } else {
            self.overwritten = true;
            let index = self.oldest;
            let next = index + rows;
            self.oldest = if next < self.limit.rows { next } else { self.limit.pinned };
            index
        };
        // From the end: rows are nearly always written to the last chunk.
        let mut start = self.capacity;
        for chunk in self.chunks.iter_mut().rev() {
            start -= chunk.rows;
            if index >= start {
                return Some((self.layout, chunk.memory.bytes_mut(), index - start));
            }
        }
        None
    }

    /// Removes [`BLOCK`] rows of a dense layout from `first` on and appends them to `block`
    /// (BLOCK, head_dim); later rows move up. There are that many; the store grows by groups.
    pub(crate) fn take_block(&mut self, first: usize, block: &mut Vec<f32>) {
        let mut rows = Vec::with_capacity((self.len - first) * self.layout.head_dim());
        let mut reader = self.reader();
        (first..self.len).for_each(|index| rows.extend_from_slice(reader.row(index)));
        let (taken, moved) = rows.split_at(BLOCK * self.layout.head_dim());
        block.extend_from_slice(taken);
        self.len = first;
        moved.chunks_exact(self.layout.head_dim()).for_each(|row| self.push(row));
        self.free_empty_chunks();
    }

    /// Rows at the end that [`RowStore::truncate`] can take back.
    pub(super) fn removable(&self) -> usize {
        let shared = self.shared.iter().map(|shared| shared.rows).sum::<usize>();
        if self.overwritten || self.layout.is_quantized() { 0 } else { self.len - shared }
    }

    /// Takes back all rows from `len` on, at most [`RowStore::removable`] of them; memory that held nothing else is
    /// free then.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.max(self.len - self.removable()));
        self.free_empty_chunks();
    }

    fn free_empty_chunks(&mut self) {
        while self.chunks.last().is_some_and(|chunk| self.len + chunk.rows <= self.capacity) {
            self.capacity -= self.chunks.pop().map_or(0, |chunk| chunk.rows);
        }
    }

    /// The rows held, as contiguous runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Rows<'_>> {
        let mut left = self.len;
        self.parts().map_while(move |(chunk, rows)| {
            let rows = rows.min(left);
            left -= rows;
            let bytes = chunk.memory.bytes();
            (rows > 0).then(|| Rows::new(self.layout, &bytes[..self.layout.bytes(rows)], rows))
        })
    }

    /// Chunks, and how many of their rows there is use for, in order.
    fn parts(&self) -> impl Iterator<Item = (&Chunk, usize)> {
        let shared = self.shared.iter().map(|shared| (&*shared.chunk, shared.rows));
        shared.chain(self.chunks.iter().map(|chunk| (chunk, chunk.rows)))
    }

    /// Reads rows of a dense layout; cheap where they are read in order.
    pub(crate) fn reader(&self) -> RowReader<'_> {
        RowReader { store: self, group: usize::MAX, rows: vec![0.0; GROUP * self.layout.head_dim()] }
    }
}

/// Rows of one dense layout that several caches may begin with; see [`RowStore::share`].
#[derive(Clone)]
pub(crate) struct SharedStore {
    pub(crate) layout: Layout,
    rows: Vec<SharedRows>,
}

/// Reads rows of a [`RowStore`] of a dense layout, a group at a time.
pub(crate) struct RowReader<'a> {
    store: &'a RowStore,
    /// The group that was read last.
    group: usize,
    /// (GROUP, head_dim): its rows.
    rows: Vec<f32>,
}

impl RowReader<'_> {
    /// Row `index` (head_dim); zeros or an older row where there is none.
    pub(crate) fn row(&mut self, index: usize) -> &[f32] {
        let layout = &self.store.layout;
        if index / GROUP != self.group {
            self.group = index / GROUP;
            let mut start = 0;
            for (chunk, rows) in self.store.parts() {
                if (start..start + rows).contains(&index) {
                    dense::read_group(layout, chunk.memory.bytes(), (index - start) / GROUP, &mut self.rows);
                }
                start += rows;
            }
        }
        let start = index % GROUP * layout.head_dim();
        &self.rows[start..start + layout.head_dim()]
    }
}
