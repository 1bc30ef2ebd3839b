//! Packed rows and nibbles spread out again, as bytes or f32.

use std::arch::x86_64::*;

use super::avx512::{Avx512, Quad};
use crate::lanes::QUAD;
use crate::layout::{BLOCK, F16_BYTES, GROUP, Sections};
use crate::select::{Levels, Packing};
use crate::simd::{LANES, Simd};

/// Groups of a block.
const GROUPS: usize = BLOCK / GROUP;

/// Which of 64 elements are kept, and the signs and levels of the others.
#[derive(Clone, Copy)]
pub(super) struct Masks {
    pub(super) kept: u64,
    pub(super) negative: u64,
    pub(super) high: u64,
}

/// The masks of a packed block: a word for each 64 elements.
pub(super) struct MaskWords<'a> {
    kept: &'a [[u8; 8]],
    negative: &'a [[u8; 8]],
    /// With one level there is nothing to read here, and nobody looks at it.
    high: &'a [[u8; 8]],
}

impl<'a> MaskWords<'a> {
    #[inline(always)]
    pub(super) fn new(block: &'a [u8], sections: &Sections) -> Self {
        let words = |from: usize, to: usize| block[from..to].as_chunks::<8>().0;
        let high = if sections.levels < sections.scalars { sections.levels } else { sections.signs };
        Self {
            kept: words(sections.bitmap, sections.signs),
            negative: words(sections.signs, sections.levels),
            high: words(high, sections.scalars),
        }
    }

    /// The masks of 64 elements after 64, from the `first` on.
    #[inline(always)]
    pub(super) fn iter(&self, first: usize) -> impl Iterator<Item = Masks> {
        let all = self.kept[first..].iter().zip(&self.negative[first..]).zip(&self.high[first..]);
        all.map(|((kept, negative), high)| Masks {
            kept: u64::from_le_bytes(*kept),
            negative: u64::from_le_bytes(*negative),
            high: u64::from_le_bytes(*high),
        })
    }
}

/// The kept values of a packed block, read one after the other.
pub(super) struct Kept<'a> {
    simd: Avx512,
    block: &'a [u8],
    /// Bytes read so far.
    read: usize,
}

impl<'a> Kept<'a> {
    /// From byte `first` on.
    ///
    /// # Panics
    /// If the block is shorter than a register.
    #[inline(always)]
    pub(super) fn new(simd: Avx512, block: &'a [u8], first: usize) -> Self {
        assert!(block.len() >= size_of::<Quad>(), "a block has 32 scales and as many magnitudes");
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
        let start = self.read.min(self.block.len() - size_of::<Quad>());
        self.read += bytes as usize;
        // SAFETY: as many bytes as a register has lie in the block from `start` on; see `Kept::new`.
        let register = unsafe { &*self.block.as_ptr().add(start).cast::<Quad>() };
        self.simd.load_bytes(register)
    }
}

/// The two nibbles of every byte, low ones first: a block of int4 becomes one of bytes.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn nibbles(simd: Avx512, nibbles: &[u8], codes: &mut [Quad]) {
    for (bytes, [low, high]) in nibbles.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        let bytes = simd.load_bytes(bytes);
        let mask = _mm512_set1_epi8(15);
        simd.store_bytes(_mm512_and_si512(bytes, mask), low);
        simd.store_bytes(_mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask), high);
    }
}

/// Two vectors of f32 from 32 elements with f16 values.
#[inline(always)]
fn floats(_simd: Avx512, masks: [u32; 3], [low, high]: [__m512i; 2], kept: &mut Kept<'_>) -> [__m512; 2] {
    let [mask, negative, levels] = masks;
    let values = kept.next(mask.count_ones() * F16_BYTES as u32);
    // SAFETY: `_simd` is proof of the instructions.
    unsafe {
        let magnitude = _mm512_mask_mov_epi16(low, levels, high);
        let negated = _mm512_xor_si512(magnitude, _mm512_set1_epi16(i16::MIN));
        let filled = _mm512_mask_mov_epi16(magnitude, negative, negated);
        let spread = _mm512_mask_expand_epi16(filled, mask, values);
        [
            _mm512_cvtph_ps(_mm512_castsi512_si256(spread)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(spread)),
        ]
    }
}

impl Masks {
    /// Those of the first and of the second 32 elements; no levels if there is but one.
    #[inline(always)]
    fn halves(self, two_levels: bool) -> [[u32; 3]; 2] {
        let high = if two_levels { self.high } else { 0 };
        [
            [self.kept as u32, self.negative as u32, high as u32],
            [(self.kept >> 32) as u32, (self.negative >> 32) as u32, (high >> 32) as u32],
        ]
    }
}

/// Keys (2 groups, head_dim) of a packed block with f16 values.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn f16_keys(simd: Avx512, block: &[u8], packing: &Packing, keys: &mut [[f32; LANES]]) {
    let channels = keys.len() / GROUPS;
    let sections = packing.sections(channels);
    let two_levels = packing.levels == Levels::Two;
    let fills = block[sections.scalars..sections.steps].as_chunks::<{ F16_BYTES * GROUP }>().0;
    let (masks, mut kept) = (MaskWords::new(block, &sections), Kept::new(simd, block, 0));
    for (group, keys) in keys.chunks_exact_mut(channels).enumerate() {
        let high = if two_levels { GROUPS + group } else { group };
        let fills = [simd.twice(&fills[group]), simd.twice(&fills[high])];
        for (keys, masks) in keys.as_chunks_mut::<4>().0.iter_mut().zip(masks.iter(group * channels / 4)) {
            let [first, second] = masks.halves(two_levels);
            let [a, b] = floats(simd, first, fills, &mut kept);
            let [c, d] = floats(simd, second, fills, &mut kept);
            for (vector, key) in [a, b, c, d].into_iter().zip(keys) {
                simd.store(vector, key);
            }
        }
    }
}

/// Values (BLOCK, head_dim / 16) of a packed block with f16 values.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn f16_values(simd: Avx512, block: &[u8], packing: &Packing, values: &mut [[f32; LANES]]) {
    let vectors = values.len() / BLOCK;
    let sections = packing.sections(vectors * LANES);
    let two_levels = packing.levels == Levels::Two;
    let pairs = block[sections.scalars..sections.steps].as_chunks::<{ 2 * F16_BYTES }>().0;
    let (low, high) = if two_levels { pairs.split_at(pairs.len() / 2) } else { (pairs, pairs) };
    let (low, high) = (low.as_chunks::<2>().0, high.as_chunks::<2>().0);
    let (masks, mut kept) = (MaskWords::new(block, &sections), Kept::new(simd, block, 0));
    for vector in 0..vectors {
        let masks = masks.iter(vector * (BLOCK / QUAD));
        let tokens = values.chunks_exact_mut(QUAD * vectors).zip(low).zip(high);
        for (((values, low), high), masks) in tokens.zip(masks) {
            let [first, second] = masks.halves(two_levels);
            let [a, b] = floats(simd, first, [simd.halves(&low[0]), simd.halves(&high[0])], &mut kept);
            let [c, d] = floats(simd, second, [simd.halves(&low[1]), simd.halves(&high[1])], &mut kept);
            for (vector_of_token, values) in [a, b, c, d].into_iter().zip(values.chunks_exact_mut(vectors)) {
                simd.store(vector_of_token, &mut values[vector]);
            }
        }
    }
}
