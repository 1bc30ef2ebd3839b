//! How stores of rows grow, and what their chunks take: arithmetic that holds for what is allocated and for what is
//! computed beforehand.

use sparkv_kernels::{BLOCK, GROUP, Layout};

/// Chunks of this many bytes or more are pages of their own, which an allocator would round up by more, and
/// might keep when they are freed.
pub(crate) const MAPPED: usize = 128 << 10;

/// Bytes of a page, at least.
pub(crate) const PAGE: usize = 4096;

/// Bytes of a line of a processor's cache; chunks of rows begin with one, so that few loads straddle two.
pub(crate) const LINE: usize = 64;

/// Bytes allocated for a chunk of `rows` rows.
pub(crate) fn chunk_bytes(layout: &Layout, rows: usize) -> usize {
    let bytes = layout.bytes(rows);
    bytes.next_multiple_of(if bytes >= MAPPED { PAGE } else { LINE })
}

/// How much room is made when a store is full, in whole units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// One group: for rows that come one by one and leave by blocks.
    Group,
    /// One block: for rows that come by blocks.
    Block,
    /// A small share of what is held: for rows that stay.
    Share,
}

impl Growth {
    /// Rows to make room for, a multiple of `unit`, where `held` rows fill all there is.
    pub(crate) fn rows(self, held: usize, unit: usize) -> usize {
        match self {
            Growth::Group => GROUP,
            Growth::Block => BLOCK,
            Growth::Share => (held / 32).clamp(1, 256).next_multiple_of(unit),
        }
    }
}

/// How many rows a store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Rows pushed beyond this many overwrite the oldest.
    pub(crate) rows: usize,
    /// The first rows, which are never overwritten.
    pub(crate) pinned: usize,
}

impl Limit {
    /// Any number of rows.
    pub(crate) const NONE: Self = Self { rows: usize::MAX, pinned: 0 };
}

/// Rows of the chunks of a store that was made for `first` rows and then got `more`, at most `limit` in all;
/// see `Extent::reserve`.
pub(super) fn chunks(first: usize, more: usize, unit: usize, growth: Growth, limit: usize) -> Vec<usize> {
    let first = first.min(limit);
    let wanted = (first + more).min(limit);
    let mut chunks = vec![first.next_multiple_of(unit)];
    let mut capacity = chunks[0];
    while capacity < wanted {
        let rows = growth.rows(capacity, unit).min(limit - capacity).next_multiple_of(unit);
        chunks.push(rows);
        capacity += rows;
    }
    chunks
}
