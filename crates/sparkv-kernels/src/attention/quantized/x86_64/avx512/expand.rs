//! Packed rows and nibbles spread out again, as bytes.

use std::arch::x86_64::*;

use crate::format::lanes::Unit;
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

/// The two nibbles of every byte, low ones first: a block of int4 becomes one of bytes.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn nibbles(simd: Avx512, nibbles: &[u8], codes: &mut [Unit]) {
    for (bytes, [low, high]) in nibbles.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        let bytes = simd.load_bytes(bytes);
        let mask = _mm512_set1_epi8(15);
        simd.store_bytes(_mm512_and_si512(bytes, mask), low);
        simd.store_bytes(_mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask), high);
    }
}
