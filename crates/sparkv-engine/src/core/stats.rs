//! What an engine has done and holds, for metrics.
use std::sync::atomic::{AtomicU64, Ordering};

/// Figures of an engine since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that caches, and tokens on their way through the layers, may hold.
    pub kv_budget_bytes: u64,
    /// Bytes of the caches of running requests; what several share counts for each.
    pub kv_active_bytes: u64,
    /// Bytes that dense f16 caches of the same tokens would hold.
    pub kv_dense_bytes: u64,
    /// Bytes held for nobody who runs: prefixes and conversations that may be continued.
    pub kv_prefix_bytes: u64,
    /// Tokens of prompts that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens of them that were found.
    pub prefix_hits: u64,
    /// Requests that had to begin again because memory ran out.
    pub preemptions: u64,
    /// Tokens drawn.
    pub generated_tokens: u64,
}

/// The same, as it is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    held: AtomicU64,
    active: AtomicU64,
    dense: AtomicU64,
    prefix_queries: AtomicU64,
    prefix_hits: AtomicU64,
    preemptions: AtomicU64,
    generated: AtomicU64,
}

impl Counters {
    /// Bytes of all caches, of those of running requests, and of the latter were they dense f16.
    pub(super) fn held(&self, all: u64, active: u64, dense: u64) {
        self.held.store(all, Ordering::Relaxed);
        self.active.store(active, Ordering::Relaxed);
        self.dense.store(dense, Ordering::Relaxed);
    }

    pub(super) fn looked_up(&self, found: usize, asked: usize) {
        self.prefix_queries.fetch_add(asked as u64, Ordering::Relaxed);
        self.prefix_hits.fetch_add(found as u64, Ordering::Relaxed);
    }

    pub(super) fn preempted(&self) {
        self.preemptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn generated(&self, tokens: usize) {
        self.generated.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, kv_budget_bytes: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let active = get(&self.active);
        Stats {
            kv_budget_bytes,
            kv_active_bytes: active,
            kv_dense_bytes: get(&self.dense),
            kv_prefix_bytes: get(&self.held).saturating_sub(active),
            prefix_queries: get(&self.prefix_queries),
            prefix_hits: get(&self.prefix_hits),
            preemptions: get(&self.preemptions),
            generated_tokens: get(&self.generated),
        }
    }
}
