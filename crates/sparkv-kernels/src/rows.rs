//! Stored rows, as kernels are handed them.

use std::ops::Range;

use crate::layout::{BLOCK, GROUP, Layout};
use crate::simd::Simd;
use crate::{block, dense};

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

/// Bytes that will be read soon, asked for a little at a time, so that they arrive while others are worked on.
#[derive(Clone, Copy)]
pub(crate) struct Upcoming {
    /// Never read from.
    next: *const u8,
    /// Bytes of a row.
    row_bytes: usize,
    /// Bytes asked for at each step.
    step: usize,
}

/// What is asked for where there is nothing.
static NOTHING: u8 = 0;

/// Bytes of a line of the processor's cache.
const LINE: usize = 64;

impl Upcoming {
    /// Nothing: the same line again and again.
    pub(crate) const NONE: Self = Self { next: &raw const NOTHING, row_bytes: 0, step: 0 };

    /// The rows of `rows` from `first` on, which begins a unit.
    pub(crate) fn new(rows: &Rows<'_>, first: usize) -> Self {
        let row_bytes = rows.layout.unit_bytes() / rows.layout.unit_rows();
        let start = first / rows.layout.unit_rows() * rows.layout.unit_bytes();
        rows.bytes.get(start..).map_or(Self::NONE, |bytes| Self { next: bytes.as_ptr(), row_bytes, step: 0 })
    }

    /// The next `rows` rows are to be asked for in `steps` steps.
    #[inline(always)]
    pub(crate) fn spread(&mut self, rows: usize, steps: usize) {
        self.step = (rows * self.row_bytes).div_ceil(steps);
    }

    /// Asks for no more until [`Upcoming::spread`] is called again.
    #[inline(always)]
    pub(crate) fn pause(&mut self) {
        self.step = 0;
    }

    /// Asks for what a step is.
    #[inline(always)]
    pub(crate) fn ask<S: Simd>(&mut self, simd: S) {
        simd.prefetch(self.next);
        let mut asked = LINE;
        while asked < self.step {
            simd.prefetch(self.next.wrapping_add(asked));
            asked += LINE;
        }
        self.next = self.next.wrapping_add(self.step);
    }
}

/// A run of tokens stored alike: as many keys as values.
#[derive(Debug, Clone, Copy)]
pub struct KvRun<'a> {
    /// Keys of the run.
    pub keys: Rows<'a>,
    /// Values of the run.
    pub values: Rows<'a>,
    /// Whether the keys are in the scaled domain, to be met by [`crate::QueryTile::scaled_queries`].
    pub scaled: bool,
}

/// Runs one after the other, and where each ends.
pub(crate) struct Sequence<'r, 'a> {
    runs: &'r [KvRun<'a>],
    /// Rows of a run and all before it.
    ends: Vec<usize>,
}

impl<'r, 'a> Sequence<'r, 'a> {
    /// # Panics
    /// If a run has another number of values than of keys, or one that others follow is not whole groups.
    pub(crate) fn new(runs: &'r [KvRun<'a>]) -> Self {
        let mut end = 0usize;
        let mut ends = Vec::with_capacity(runs.len());
        for run in runs {
            assert_eq!(run.keys.len(), run.values.len(), "as many values as keys");
            let unit = run.keys.layout.unit_rows().max(run.values.layout.unit_rows());
            assert!(end.is_multiple_of(unit), "runs begin with a unit of their layout");
            end += run.keys.len();
            ends.push(end);
        }
        Self { runs, ends }
    }

    /// Rows of all runs.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The parts of `block`, which begins with a [`BLOCK`], that lie in one run: the run, its rows, and the
    /// group of the block they begin with.
    pub(crate) fn parts(
        &self,
        block: &Range<usize>,
    ) -> impl Iterator<Item = (&'r KvRun<'a>, Range<usize>, usize)> {
        let block = block.clone();
        let end_of_block = block.end;
        let first = self.ends.partition_point(|end| *end <= block.start);
        let runs = self.runs[first..].iter().zip(&self.ends[first..]);
        runs.map(|(run, end)| (run, end - run.keys.len()..*end))
            .take_while(move |(_, span)| span.start < end_of_block)
            .filter_map(move |(run, span)| {
                let (start, end) = (span.start.max(block.start), span.end.min(block.end));
                let rows = start..end;
                (!rows.is_empty())
                    .then(|| (run, start - span.start..end - span.start, (start - block.start) / GROUP))
            })
    }
}
