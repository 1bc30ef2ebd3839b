//! Memory that several threads write at once, each where no other does.

use std::marker::PhantomData;

/// A slice whose places are given to threads, each place to one at a time.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever uses a range says that nobody else does.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` places from `start` on.
    ///
    /// # Safety
    /// Nobody else may use one of these places while the result lives.
    ///
    /// # Panics
    /// If there are no such places.
    #[expect(clippy::mut_from_ref, reason = "the point of it; see Safety")]
    pub(super) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "places of the slice");
        // SAFETY: they lie in the slice, which is borrowed for as long as `self` lives; nobody else uses them, as the
        // caller says.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
