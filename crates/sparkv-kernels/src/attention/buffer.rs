//! Working memory whose elements do not straddle lines of a processor's cache.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::KEY_BLOCK;
use crate::format::lanes::{QUAD, Unit};
use crate::format::{BLOCK, Layout};
use crate::simd::LANES;

/// A line of a processor's cache.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Elements of whole lines each, the first of which begins with one.
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    elements: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), elements: PhantomData }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

impl<T: Pod> Buffer<T> {
    const LINES: usize = size_of::<T>() / size_of::<Line>();

    /// Exactly `len` elements; what is new is zero.
    pub(crate) fn resize(&mut self, len: usize) {
        self.lines.resize(len * Self::LINES, Line::zeroed());
    }

    /// At least `len` elements.
    pub(crate) fn reserve(&mut self, len: usize) {
        self.resize(len.max(self.lines.len() / Self::LINES));
    }

    /// The elements.
    pub(crate) fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// The elements.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// Room for a block that was read from its packed form.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    /// Keys (2 groups, head_dim), values (BLOCK, head_dim / 16).
    pub(crate) floats: Buffer<[f32; LANES]>,
    /// Elements of up to [`KEY_BLOCK`] rows in lane order, a byte each.
    pub(crate) codes: Buffer<Unit>,
}

impl Expanded {
    /// Makes room for a block of rows of `layout` in f32, and [`KEY_BLOCK`] of them in codes.
    pub(crate) fn reserve(&mut self, layout: &Layout) {
        let vectors = BLOCK * layout.head_dim().div_ceil(LANES);
        self.floats.reserve(vectors);
        self.codes.reserve(KEY_BLOCK / QUAD * layout.head_dim().div_ceil(LANES));
    }
}
