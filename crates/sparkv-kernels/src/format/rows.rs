//! Stored rows, as kernels are handed them.

use std::ops::Range;

use super::layout::Layout;
use super::{BLOCK, block, dense};

/// Contiguous rows of one layout.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    layout: Layout,
    /// Whole units of the layout.
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Rows<'a> {
    /// The first `len` rows of `layout` in `bytes`.
    ///
    /// # Panics
    /// If `bytes` is not [`Layout::bytes`] of `len` long, or a block is not whole.
    pub fn new(layout: Layout, bytes: &'a [u8], len: usize) -> Self {
        assert_eq!(bytes.len(), layout.bytes(len), "bytes of {len} rows");
        assert!(!layout.is_quantized() || len.is_multiple_of(BLOCK), "quantized rows come in blocks");
        Self { layout, bytes, len }
    }

    /// How the rows are stored.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rows `range`, which begins with a unit and ends with one or with the rows.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let start = range.start / self.layout.unit_rows() * self.layout.unit_bytes();
        let bytes = &self.bytes[start..start + self.layout.bytes(range.len())];
        Self { layout: self.layout, bytes, len: range.len() }
    }

    /// The same rows, `rows` at a time; a multiple of [`BLOCK`].
    pub fn chunks(&self, rows: usize) -> impl Iterator<Item = Rows<'a>> + use<'a> {
        let all = *self;
        (0..self.len).step_by(rows).map(move |start| all.slice(start..all.len.min(start + rows)))
    }

    /// The bytes of the unit that begins with row `first` and of those behind it; None if there is no such row.
    pub(crate) fn bytes_from(&self, first: usize) -> Option<&'a [u8]> {
        self.bytes.get(first / self.layout.unit_rows() * self.layout.unit_bytes()..)
    }

    /// The bytes of each unit.
    pub(crate) fn units(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.layout.unit_bytes())
    }

    /// All rows (len, head_dim) in f32, pruned channels recovered. Slow: for tests and tools.
    pub fn decode(&self) -> Vec<f32> {
        let head_dim = self.layout.head_dim();
        let unit_rows = self.layout.unit_rows();
        let mut rows = vec![0.0; self.len.next_multiple_of(unit_rows) * head_dim];
        for (index, (bytes, rows)) in
            self.units().zip(rows.chunks_exact_mut(unit_rows * head_dim)).enumerate()
        {
            if self.layout.is_quantized() {
                block::decode(&self.layout, bytes, rows);
            } else {
                dense::read_group(&self.layout, self.bytes, index, rows);
            }
        }
        rows.truncate(self.len * head_dim);
        rows
    }
}
