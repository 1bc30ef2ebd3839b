//! Watching and holding a fake model.
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use sparkv::KvPool;

/// Lets a model's steps through, all of them or a number of them.
#[derive(Debug, Default)]
pub struct Gate {
    // Steps that may still pass; any number if `None`.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Gate {
    /// Holds every step from now on.
    pub fn close(&self) {
        *self.lock() = Some(0);
    }

    /// Lets `steps` more steps through a closed gate.
    pub fn allow(&self, steps: usize) {
        if let Some(allowed) = self.lock().as_mut() {
            *allowed += steps;
        }
        self.changed.notify_all();
    }

    /// Lets everything through.
    pub fn open(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }

    pub(super) fn pass(&self) {
        let mut allowed = self.lock();
        loop {
            match allowed.as_mut() {
                None => return,
                Some(0) => allowed = self.changed.wait(allowed).unwrap_or_else(PoisonError::into_inner),
                Some(steps) => {
                    *steps -= 1;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) live_caches: AtomicUsize,
    pub(super) caches_made: AtomicUsize,
    pub(super) steps: AtomicUsize,
    pub(super) gate: Gate,
    pub(super) pool: KvPool,
}

/// Watches and holds a fake model that an engine owns.
#[derive(Debug, Clone)]
pub struct Probe(pub(super) Arc<Counters>);

impl Probe {
    /// Caches that exist.
    pub fn live_caches(&self) -> usize {
        self.0.live_caches.load(Ordering::SeqCst)
    }

    /// Caches that were made so far.
    pub fn caches_made(&self) -> usize {
        self.0.caches_made.load(Ordering::SeqCst)
    }

    /// Bytes that caches, prefixes and prompts hold.
    pub fn held_bytes(&self) -> u64 {
        self.0.pool.held()
    }

    /// Steps begun, those that wait at the gate included.
    pub fn steps(&self) -> usize {
        self.0.steps.load(Ordering::SeqCst)
    }

    /// The gate that every step passes; open at first.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }
}
