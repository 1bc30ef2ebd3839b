//! How many threads compute.
//!
//! Candle and rayon size their pools once, from variables of the environment. Left alone, Candle counts the
//! machine's cores, also those that a container may not use, and its quantized kernels meet at a barrier where
//! they spin: one thread too many, and all of them wait for the scheduler (seen: a hundred times slower).

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// That this process has one thread still, so that its variables may be set. `main` makes the one there is, and
/// whatever starts threads first (the log, since it may send spans) takes it.
pub(crate) struct OnlyThread(());

impl OnlyThread {
    /// To be called first thing in `main`.
    pub(crate) fn at_start() -> Self {
        Self(())
    }

    /// Says how many threads will compute. The matrices of a `tiny` model are too small to be shared; one thread
    /// multiplies them unless told otherwise.
    pub(crate) fn set_threads(&self, asked: Option<NonZeroUsize>, tiny: bool) {
        debug_assert!(running().is_none_or(|threads| threads == 1), "variables are set beside other threads");
        let for_matrices = if tiny && asked.is_none() { NonZeroUsize::MIN } else { count(asked) };
        set_variable("RAYON_NUM_THREADS", count(asked));
        set_variable("CANDLE_NUM_THREADS", for_matrices);
    }
}

/// Threads of this process, where the system tells.
fn running() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// As many threads as were asked for, else as many as this process may run at once.
pub(crate) fn count(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

#[expect(unsafe_code, reason = "the standard library has no safe way to set a variable of this process")]
fn set_variable(name: &str, value: NonZeroUsize) {
    // SAFETY: another thread that reads the environment meanwhile would be a data race; this is reached
    // while there is but one thread, as the `OnlyThread` of the caller says.
    unsafe { std::env::set_var(name, value.to_string()) };
}
