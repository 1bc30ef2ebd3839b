//! Bytes of rows, asked for before they are read.

use crate::format::Rows;
use crate::simd::Simd;

/// Bytes that will be read soon, asked for a little at a time, so that they arrive while others are worked on.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
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

impl Prefetch {
    /// Nothing: the same line again and again.
    pub(crate) const NONE: Self = Self { next: &raw const NOTHING, row_bytes: 0, step: 0 };

    /// The rows of `rows` from `first` on, which begins a unit.
    pub(crate) fn new(rows: &Rows<'_>, first: usize) -> Self {
        let row_bytes = rows.layout().unit_bytes() / rows.layout().unit_rows();
        rows.bytes_from(first).map_or(Self::NONE, |bytes| Self { next: bytes.as_ptr(), row_bytes, step: 0 })
    }

    /// The next `rows` rows are to be asked for in `steps` steps.
    #[inline(always)]
    pub(crate) fn spread(&mut self, rows: usize, steps: usize) {
        self.step = (rows * self.row_bytes).div_ceil(steps);
    }

    /// Asks for no more until [`Prefetch::spread`] is called again.
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
