//! The kept values of packed rows.

use std::arch::x86_64::*;

use crate::format::lanes::Unit;
use crate::simd::integers::Integers;
use crate::simd::x86_64::Avx512;

/// The kept values of a packed block, read one after the other.
pub(super) struct KeptRegisters<'a> {
    simd: Avx512,
    block: &'a [u8],
    /// Bytes read so far.
    read: usize,
}

impl<'a> KeptRegisters<'a> {
    /// From byte `first` on.
    ///
    /// # Panics
    /// If the block is shorter than a register.
    #[inline(always)]
    pub(super) fn new(simd: Avx512, block: &'a [u8], first: usize) -> Self {
        assert!(block.len() >= size_of::<Unit>(), "a block has 32 scales and as many magnitudes");
        Self { simd, block, read: first }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// A register of values, of which `bytes` are done with. More than there are, which only a broken bitmap asks for,
    /// are other bytes of the block.
    #[inline(always)]
    pub(super) fn next(&mut self, bytes: u32) -> __m512i {
        let start = self.read.min(self.block.len() - size_of::<Unit>());
        self.read += bytes as usize;
        // SAFETY: as many bytes as a register has lie in the block from `start` on; see `KeptRegisters::new`.
        let register = unsafe { &*self.block.as_ptr().add(start).cast::<Unit>() };
        self.simd.load_bytes(register)
    }
}
