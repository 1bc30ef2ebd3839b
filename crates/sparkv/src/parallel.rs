//! Work shared among threads: those of Candle's matrix products. They spin for the next product, and those of another
//! pool would have to fight them for the cores.

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::utils::barrier_pool;

/// What `compute` gives for each index below `count`.
pub(crate) fn map<T: Send + Sync>(
    count: usize,
    compute: impl Fn(usize) -> Option<T> + Sync,
) -> Vec<Option<T>> {
    let results: Vec<OnceLock<Option<T>>> = (0..count).map(|_| OnceLock::new()).collect();
    barrier_pool().execute_chunked(count, |range| {
        for index in range {
            results[index].get_or_init(|| compute(index));
        }
    });
    results.into_iter().map(|result| result.into_inner().flatten()).collect()
}

/// Calls `change` with each of `items` and its index.
pub fn for_each<T: Send>(items: &mut [T], change: impl Fn(usize, &mut T) + Sync) {
    // Never contended: each item is taken once.
    let items: Vec<_> = items.iter_mut().map(Mutex::new).collect();
    barrier_pool().execute_chunked(items.len(), |range| {
        for index in range {
            change(index, &mut items[index].lock().unwrap_or_else(PoisonError::into_inner));
        }
    });
}
