//! Memory for rows: allocated once, never moved, counted.

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
use sparkv_kernels::Layout;

use crate::plan::growth::{LINE, MAPPED, chunk_bytes};
use crate::pool::{Charge, KvPool};
use crate::storage::extent::Room;

/// A line of a processor's cache.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u8; LINE]);

/// Bytes of a large page.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Memory that is allocated once and never moved.
pub(super) enum Memory {
    Allocated(Box<[Line]>),
    Mapped(MmapMut),
}

impl Memory {
    /// Zeros.
    fn new(bytes: usize) -> Self {
        if bytes >= MAPPED
            && let Ok(pages) = MmapMut::map_anon(bytes)
        {
            // Only a wish: caches are read from end to end, which goes faster over few large pages.
            #[cfg(target_os = "linux")]
            if bytes >= LARGE_PAGE {
                let _ = pages.advise(memmap2::Advice::HugePage);
            }
            return Self::Mapped(pages);
        }
        Self::Allocated(vec![Line::zeroed(); bytes / size_of::<Line>()].into_boxed_slice())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Allocated(lines) => bytemuck::cast_slice(lines),
            Self::Mapped(pages) => pages,
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Allocated(lines) => bytemuck::cast_slice_mut(lines),
            Self::Mapped(pages) => pages,
        }
    }
}

/// Room for rows.
pub(super) struct Chunk {
    pub(super) memory: Memory,
    rows: usize,
    _charge: Charge,
}

impl Chunk {
    pub(super) fn new(layout: &Layout, rows: usize, pool: &KvPool) -> Self {
        let bytes = chunk_bytes(layout, rows);
        Self { memory: Memory::new(bytes), rows, _charge: pool.charge(bytes) }
    }
}

impl Room for Chunk {
    fn rows(&self) -> usize {
        self.rows
    }
}
