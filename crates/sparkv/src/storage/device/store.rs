//! Rows of a layer in a device's memory: keys and values of all KV heads.

use std::sync::Arc;

use sparkv_device::DeviceError;
use sparkv_device::RowPlace;
use sparkv_device::rows::{Run, Units};

use super::memory::{HeldLines, Range};
use crate::plan::growth::{Growth, Limit, chunk_bytes};
use crate::pool::{Charge, KvPool};
use crate::storage::extent::{Extent, Room, SharedRows};

/// Room for rows. It takes as many bytes as the CPU's chunks of all KV heads and both sides together.
pub(super) struct DeviceChunk {
    lines: HeldLines,
    rows: usize,
    charge: Charge,
}

impl Room for DeviceChunk {
    fn rows(&self) -> usize {
        self.rows
    }
}

/// A row's place, which is known once all memory is taken: until then, it may be moved.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    range: Arc<Range>,
    row: u32,
}

impl Slot {
    /// The place that many rows behind.
    pub(super) fn behind(&self, rows: u32) -> Self {
        Self { range: Arc::clone(&self.range), row: self.row + rows }
    }

    pub(super) fn place(&self) -> RowPlace {
        RowPlace { line: self.range.first(), row: self.row }
    }
}

/// Rows of one layout each of keys and values.
pub(in crate::storage) struct Store {
    pub(super) units: Units,
    extent: Extent<DeviceChunk>,
    pool: KvPool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("units", &self.units).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Rows that several caches may begin with.
#[derive(Clone)]
pub(crate) struct SharedStore {
    pub(super) units: Units,
    /// Where they are.
    pool: KvPool,
    rows: Vec<SharedRows<DeviceChunk>>,
}

impl Store {
    pub(super) fn new(units: Units, growth: Growth, limit: Limit, pool: &KvPool) -> Self {
        Self { units, extent: Extent::new(units.rows(), growth, limit), pool: pool.clone() }
    }

    /// Whether what is shared is in the same memory.
    pub(in crate::storage) fn is_beside(&self, shared: &SharedStore) -> bool {
        match (self.pool.memory(), shared.pool.memory()) {
            (Some(own), Some(other)) => own.is(other),
            _ => false,
        }
    }

    /// Rows held, of every KV head.
    pub(super) fn len(&self) -> usize {
        self.extent.len()
    }

    /// See [`Extent::room`].
    pub(super) fn room(&self) -> usize {
        self.extent.room()
    }

    /// Bytes held; of shared rows, what they would take alone.
    pub(super) fn bytes(&self) -> usize {
        let shared = self.extent.shared().map(|(_, rows)| bytes(&self.units, rows));
        shared.chain(self.extent.chunks().iter().map(|chunk| chunk.charge.bytes() as usize)).sum()
    }

    /// Bytes that storing `rows` more would allocate.
    pub(super) fn next_bytes(&self, rows: usize) -> usize {
        bytes(&self.units, self.extent.next_chunk(rows))
    }

    fn chunk(units: &Units, rows: usize, pool: &KvPool) -> Result<DeviceChunk, DeviceError> {
        let Some(memory) = pool.memory() else {
            return Err(DeviceError::Missing { what: "memory for caches" });
        };
        let bytes = bytes(units, rows);
        Ok(DeviceChunk { lines: memory.hold(bytes)?, rows, charge: pool.charge(bytes) })
    }

    /// Makes room for `rows` rows in all.
    pub(super) fn reserve(&mut self, rows: usize) -> Result<(), DeviceError> {
        let Self { units, extent, pool } = self;
        extent.reserve(rows, |rows| Self::chunk(units, rows, pool))
    }

    /// Adds `rows` rows: where the first of them goes. `None` where no row may be held.
    pub(super) fn add(&mut self, rows: usize) -> Result<Option<Slot>, DeviceError> {
        let Self { units, extent, pool } = self;
        let added = extent.add(rows, |rows| Self::chunk(units, rows, pool))?;
        Ok(added.map(|(chunk, row)| Slot { range: chunk.lines.range(), row: row as u32 }))
    }

    /// All rows, in order.
    pub(super) fn runs(&self) -> Vec<Run> {
        self.extent.runs().map(|(chunk, rows)| Run { line: chunk.lines.first(), rows: rows as u32 }).collect()
    }

    /// Where each of the rows `indices` is, given in order.
    pub(super) fn slots(&self, indices: impl Iterator<Item = usize>) -> Vec<Slot> {
        let mut parts = self.extent.runs().scan(0, |end, (chunk, rows)| {
            let start = *end;
            *end += rows;
            Some((start, *end, chunk))
        });
        let mut part = parts.next();
        let mut slots = Vec::new();
        for index in indices {
            while part.as_ref().is_some_and(|(_, end, _)| index >= *end) {
                part = parts.next();
            }
            if let Some((start, _, chunk)) = &part {
                slots.push(Slot { range: chunk.lines.range(), row: (index - start) as u32 });
            }
        }
        slots
    }

    pub(super) fn shareable(&self) -> usize {
        if self.units.is_dense() { self.extent.shareable() } else { 0 }
    }

    /// Gives what can be shared of the rows held, and what then has to be copied: the rows behind them, which are added
    /// again.
    pub(super) fn share(&mut self) -> (SharedStore, Result<Moved, DeviceError>) {
        let (whole, len) = (self.shareable(), self.len());
        let from = self.slots(whole..len);
        let (rows, left) = self.extent.share();
        let to = (whole..len).map(|_| self.add(1)).collect::<Result<Vec<_>, _>>();
        let moved = to.map(|to| Moved { from, to: to.into_iter().flatten().collect(), _memory: left });
        (SharedStore { units: self.units, pool: self.pool.clone(), rows }, moved)
    }

    /// Begins with the first `rows` rows of another store.
    pub(super) fn begin_with(&mut self, store: &SharedStore, rows: usize) {
        self.extent.begin_with(&store.rows, rows);
    }

    /// Takes the rows from `first` on back, but keeps the memory for others to come.
    pub(super) fn rewind(&mut self, first: usize) {
        self.extent.rewind(first);
    }

    pub(super) fn free_empty_chunks(&mut self) {
        self.extent.free_empty_chunks();
    }

    pub(super) fn removable(&self) -> usize {
        if self.units.is_dense() { self.extent.removable() } else { 0 }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.extent.truncate(len.max(self.len() - self.removable()));
    }
}

/// Rows that are to be copied, and the memory that only they were in.
pub(super) struct Moved {
    pub(super) from: Vec<Slot>,
    pub(super) to: Vec<Slot>,
    _memory: Vec<DeviceChunk>,
}

/// Bytes of a chunk.
fn bytes(units: &Units, rows: usize) -> usize {
    units.heads * (chunk_bytes(&units.keys, rows) + chunk_bytes(&units.values, rows))
}
