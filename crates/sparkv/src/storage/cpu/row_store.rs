//! Rows of one side: dense ones one by one, quantized ones by blocks.

use std::convert::Infallible;

use sparkv_kernels::dense;
use sparkv_kernels::{BLOCK, GROUP, Layout, Rows, quantize};

use super::chunk::Chunk;
use crate::plan::growth::{Growth, Limit, chunk_bytes};
use crate::pool::KvPool;
use crate::storage::extent::{Extent, SharedRows};

/// Rows of one layout, keys or values of one KV head. What is counted ([`RowStore::bytes`]) is what is
/// allocated.
pub(crate) struct RowStore {
    layout: Layout,
    /// Only dense rows are shared.
    extent: Extent<Chunk>,
    pool: KvPool,
}

impl std::fmt::Debug for RowStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowStore")
            .field("layout", &self.layout)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl RowStore {
    /// An empty store. Where blocks are pushed, the limit and what is pinned are multiples of [`BLOCK`].
    pub(super) fn new(layout: Layout, unit: usize, growth: Growth, limit: Limit, pool: KvPool) -> Self {
        Self { layout, extent: Extent::new(unit, growth, limit), pool }
    }

    /// Rows held.
    pub(crate) fn len(&self) -> usize {
        self.extent.len()
    }

    /// Rows that may be pushed at once: as many as overwrite no other, at least one.
    pub(crate) fn room(&self) -> usize {
        self.extent.room()
    }

    /// Bytes allocated; for shared rows, what they would take alone.
    pub(crate) fn bytes(&self) -> usize {
        let shared = self.extent.shared().map(|(_, rows)| chunk_bytes(&self.layout, rows));
        shared.chain(self.extent.chunks().iter().map(|chunk| chunk.memory.bytes().len())).sum()
    }

    /// Bytes that pushing `rows` more would allocate.
    pub(crate) fn next_bytes(&self, rows: usize) -> usize {
        chunk_bytes(&self.layout, self.extent.next_chunk(rows))
    }

    /// Rows that [`RowStore::share`] would give.
    pub(crate) fn shareable(&self) -> usize {
        if self.layout.is_quantized() { 0 } else { self.extent.shareable() }
    }

    /// Gives what can be shared of the rows held, whole groups: nobody writes them any more from then on. What
    /// follows them stays this store's own.
    pub(crate) fn share(&mut self) -> SharedStore {
        let rest = self.read_from(self.shareable());
        let (rows, _) = self.extent.share();
        rest.chunks_exact(self.layout.head_dim()).for_each(|row| self.push(row));
        SharedStore { layout: self.layout, rows }
    }

    /// Begins with the first `rows` rows, whole groups, of another store of the same layout. To be called while
    /// this one is empty.
    pub(crate) fn begin_with(&mut self, store: &SharedStore, rows: usize) {
        self.extent.begin_with(&store.rows, rows);
    }

    /// Makes room for `rows` rows in all, and no more than whole units take.
    pub(crate) fn reserve(&mut self, rows: usize) {
        let make = |rows| Ok::<_, Infallible>(Chunk::new(&self.layout, rows, &self.pool));
        let Ok(()) = self.extent.reserve(rows, make);
    }

    /// Stores one more row (head_dim) of a dense layout.
    pub(crate) fn push(&mut self, row: &[f32]) {
        if let Some((layout, bytes, index)) = self.next_rows(1) {
            dense::write_row(&layout, row, bytes, index);
        }
    }

    /// Takes another layout, of as many bytes, while there are no rows.
    pub(super) fn set_layout(&mut self, layout: Layout) {
        if self.len() == 0 && layout.unit_bytes() == self.layout.unit_bytes() {
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
        let make = |rows| Ok::<_, Infallible>(Chunk::new(&self.layout, rows, &self.pool));
        let Ok(added) = self.extent.add(rows, make);
        let (chunk, index) = added?;
        Some((self.layout, chunk.memory.bytes_mut(), index))
    }

    /// Removes [`BLOCK`] rows of a dense layout from `first` on and appends them to `block`
    /// (BLOCK, head_dim); later rows move up. There are that many; the store grows by groups.
    pub(crate) fn take_block(&mut self, first: usize, block: &mut Vec<f32>) {
        let rows = self.read_from(first);
        let (taken, moved) = rows.split_at(BLOCK * self.layout.head_dim());
        block.extend_from_slice(taken);
        self.extent.rewind(first);
        moved.chunks_exact(self.layout.head_dim()).for_each(|row| self.push(row));
        self.extent.free_empty_chunks();
    }

    /// The rows from `first` on (rows, head_dim), of a dense layout.
    fn read_from(&self, first: usize) -> Vec<f32> {
        let rows = first..self.len();
        let mut read = Vec::with_capacity(rows.len() * self.layout.head_dim());
        let mut reader = self.reader();
        rows.for_each(|index| read.extend_from_slice(reader.row(index)));
        read
    }

    /// Rows at the end that [`RowStore::truncate`] can take back.
    pub(super) fn removable(&self) -> usize {
        if self.layout.is_quantized() { 0 } else { self.extent.removable() }
    }

    /// Takes back all rows from `len` on, at most [`RowStore::removable`] of them; memory that held nothing else is
    /// free then.
    pub(super) fn truncate(&mut self, len: usize) {
        self.extent.truncate(len.max(self.len() - self.removable()));
    }

    /// The rows held, as contiguous runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Rows<'_>> {
        self.extent.runs().map(|(chunk, rows)| {
            let bytes = chunk.memory.bytes();
            Rows::new(self.layout, &bytes[..self.layout.bytes(rows)], rows)
        })
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
    rows: Vec<SharedRows<Chunk>>,
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
            if let Some((chunk, place)) = self.store.extent.locate(index) {
                dense::read_group(layout, chunk.memory.bytes(), place / GROUP, &mut self.rows);
            }
        }
        let start = index % GROUP * layout.head_dim();
        &self.rows[start..start + layout.head_dim()]
    }
}
