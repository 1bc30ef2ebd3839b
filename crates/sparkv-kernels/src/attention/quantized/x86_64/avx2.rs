//! Quantized blocks read with AVX2.
//!
//! There are no instructions that spread values out by a mask, but there are shuffles.

use std::arch::x86_64::*;

use crate::attention::quantized::masks::Masks;
use crate::attention::quantized::shuffles::SHUFFLES;
use crate::attention::quantized::{ReadQuantized, Reading, expand, integers};
use crate::attention::queries::QueryCodes;
use crate::attention::{ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::{Layout, Rows};
use crate::simd::x86_64::Avx2;
use crate::simd::{LANES, Simd};

// SAFETY of all blocks below: a value of `Avx2` is proof that the processor has the instructions.
impl ReadQuantized for Avx2 {
    #[inline(always)]
    fn expand_keys(self, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
        // SAFETY: see above.
        unsafe { expand_keys(self, layout, block, keys) }
    }

    #[inline(always)]
    fn expand_values(self, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
        // SAFETY: see above.
        unsafe { expand_values(self, layout, block, values) }
    }

    #[inline(always)]
    fn widen_codes(self, codes: &Unit) -> [<Self as Simd>::F; QUAD] {
        // SAFETY: see above.
        unsafe { widen_codes(codes) }
    }

    #[inline(always)]
    fn spread_codes(self, masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
        // SAFETY: see above.
        unsafe { spread_codes(masks, magnitudes, values, flip, codes) }
    }

    #[inline(always)]
    fn score_codes(
        self,
        layout: &Layout,
        block: &[u8],
        queries: &QueryCodes,
        reading: Reading<'_>,
        at: ScoresAt<'_>,
    ) -> bool {
        self.outline(integers::Score { layout, block, queries, reading, at })
    }

    #[inline(always)]
    fn weigh_codes(
        self,
        values: &Rows<'_>,
        at: WeightsAt<'_>,
        reading: Reading<'_>,
        sums: &mut [[f32; LANES]],
    ) -> bool {
        self.outline(integers::Weigh { values, at, reading, sums })
    }
}

/// As [`expand::keys`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
fn expand_keys(simd: Avx2, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
    expand::keys(simd, layout, block, keys);
}

/// As [`expand::values`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
fn expand_values(simd: Avx2, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
    expand::values(simd, layout, block, values);
}

/// The four bytes of each lane, as numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_codes(codes: &Unit) -> [[__m256; 2]; 4] {
    let halves = codes.as_ptr().cast::<__m256i>();
    // SAFETY: a unit is as long as two registers.
    let halves = unsafe { [_mm256_loadu_si256(halves), _mm256_loadu_si256(halves.add(1))] };
    let mut terms = [[_mm256_setzero_ps(); 2]; 4];
    for (half, codes) in halves.into_iter().enumerate() {
        // The byte is brought to the top, then back with its sign.
        let tops = [
            _mm256_slli_epi32::<24>(codes),
            _mm256_slli_epi32::<16>(codes),
            _mm256_slli_epi32::<8>(codes),
            codes,
        ];
        for (term, top) in terms.iter_mut().zip(tops) {
            term[half] = _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top));
        }
    }
    terms
}

/// As [`super::super::packed::spread_codes`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn spread_codes(masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
    let mut eights = [_mm_setzero_si128(); 8];
    let starts = starts(masks.kept).to_le_bytes();
    for ((eight, mask), start) in eights.iter_mut().zip(masks.kept.to_le_bytes()).zip(starts) {
        // There are no more than 8 values for each byte before this one.
        let Some(values) = values[usize::from(start)..].first_chunk::<8>() else { return };
        let shuffle = SHUFFLES[usize::from(mask)];
        let values = _mm_cvtsi64_si128(i64::from_le_bytes(*values));
        *eight = _mm_shuffle_epi8(values, _mm_cvtsi64_si128(i64::from_le_bytes(shuffle)));
    }
    let flip = _mm256_set1_epi8(flip.cast_signed());
    for half in 0..2 {
        let [a, b, c, d] =
            [eights[4 * half], eights[4 * half + 1], eights[4 * half + 2], eights[4 * half + 3]];
        let values = _mm256_set_m128i(_mm_unpacklo_epi64(c, d), _mm_unpacklo_epi64(a, b));
        let bits = |mask: u64| (mask >> (32 * half)) as u32;
        let (kept, negative) = (bits(masks.kept), byte_mask(bits(masks.negative)));
        let magnitude = load_half(magnitudes, half);
        // Two's complement.
        let pruned = _mm256_sub_epi8(_mm256_xor_si256(magnitude, negative), negative);
        let all = _mm256_blendv_epi8(pruned, _mm256_xor_si256(values, flip), byte_mask(kept));
        if let Some(codes) = codes.as_chunks_mut::<32>().0.get_mut(half) {
            // SAFETY: the array is as long as a register.
            unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), all) };
        }
    }
}

/// For each byte, the bits set in those before it.
#[inline(always)]
fn starts(mask: u64) -> u64 {
    let pairs = mask - (mask >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.wrapping_mul(0x0101_0101_0101_0100)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(unit: &Unit, half: usize) -> __m256i {
    // SAFETY: a unit is as long as two registers, and `half & 1` is the first or the second.
    unsafe { _mm256_loadu_si256(unit.as_ptr().cast::<__m256i>().add(half & 1)) }
}

/// Bytes of ones where bits are set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_mask(bits: u32) -> __m256i {
    let each_byte_eight_times =
        _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64.cast_signed());
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), each_byte_eight_times);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}
