//! How many threads compute.
//!
//! Candle and rayon size their pools once, from variables of the environment. Left alone, Candle counts the
//! machine's cores, also those that a container may not use, and its quantized kernels meet at a barrier where
//! they spin: one thread too many, and all of them wait for the scheduler (seen: a hundred times slower).

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// Says how many threads compute. The matrices of a `tiny` model are too small to be shared; one thread
/// multiplies them unless told otherwise.
///
/// To be called before any other thread exists.
pub(crate) fn set(asked: Option<NonZeroUsize>, tiny: bool) {
    let for_matrices = if tiny && asked.is_none() { NonZeroUsize::MIN } else { count(asked) };
    set_variable("RAYON_NUM_THREADS", count(asked));
    set_variable("CANDLE_NUM_THREADS", for_matrices);
}

/// As many threads as were asked for, else as many as this process may run at once.
pub(crate) fn count(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

#[expect(unsafe_code, reason = "the standard library has no safe way to set a variable of this process")]
fn set_variable(name: &str, value: NonZeroUsize) {
    // SAFETY: another thread that reads the environment meanwhile would be a data race; `main` comes here
    // while it is the only thread, before any pool, runtime or progress bar is started.
    unsafe { std::env::set_var(name, value.to_string()) };
}
