//! Counting of the memory that caches hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sparkv_device::DeviceError;

use crate::accelerator::Accelerator;
use crate::storage::device::memory::DeviceMemory;

/// Counts what is allocated for caches and freed again, and knows where that is. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct KvPool {
    held: Arc<AtomicU64>,
    /// The memory of a device; without, caches are in the process's.
    memory: Option<DeviceMemory>,
}

impl KvPool {
    /// For caches on a device, `bytes` of whose memory are taken for them.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn on(accelerator: &Accelerator, bytes: u64) -> Result<Self, DeviceError> {
        Ok(Self { held: Arc::default(), memory: Some(DeviceMemory::new(accelerator, bytes)?) })
    }

    /// Bytes that were taken of a device's memory; `None` where caches are in the process's.
    pub fn taken(&self) -> Option<u64> {
        self.memory.as_ref().map(DeviceMemory::bytes)
    }

    pub(crate) fn memory(&self) -> Option<&DeviceMemory> {
        self.memory.as_ref()
    }

    /// Bytes held at this moment; what several caches share counts once.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the charge is dropped. To be kept beside what they pay for.
    pub fn charge(&self, bytes: usize) -> Charge {
        let bytes = bytes as u64;
        self.held.fetch_add(bytes, Ordering::Relaxed);
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
        self.pool.held.fetch_sub(self.bytes, Ordering::Relaxed);
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
