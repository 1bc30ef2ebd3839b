//! Counting of the memory that caches hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is allocated for caches and freed again. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct KvPool(Arc<AtomicU64>);

impl KvPool {
    /// Bytes held at this moment; what several caches share counts once.
    pub fn held(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the charge is dropped. To be kept beside what they pay for.
    pub fn charge(&self, bytes: usize) -> Charge {
        let bytes = bytes as u64;
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { pool: self.clone(), bytes }
    }
}

/// Bytes that count as held while this lives.
#[derive(Debug)]
pub struct Charge {
    pool: KvPool,
    bytes: u64,
}

impl Charge {
    /// What it counts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_counts_while_it_lives() {
        let pool = KvPool::default();
        let first = pool.charge(100);
        let second = pool.clone().charge(20);
        assert_eq!(pool.held(), 120);
        drop(first);
        assert_eq!(pool.held(), 20);
        drop(second);
        assert_eq!(pool.held(), 0);
    }
}
