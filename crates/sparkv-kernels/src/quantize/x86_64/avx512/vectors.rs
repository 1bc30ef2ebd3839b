//! Loads and stores of slices, and the arithmetic the stages share.

use std::arch::x86_64::*;

use crate::simd::LANES;

/// The largest finite f16.
const F16_MAX: f32 = 65504.0;

/// A row in words of 64 channels, with zeros behind its end.
pub(super) type Row<const W: usize> = [[f32; 64]; W];

/// 64 channels.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_word(word: &[f32; 64]) -> [__m512; 4] {
    let lanes = word.as_chunks().0;
    [load_f32(&lanes[0]), load_f32(&lanes[1]), load_f32(&lanes[2]), load_f32(&lanes[3])]
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_f32(lanes: &[f32; LANES]) -> __m512 {
    // SAFETY: the array is as long as the register.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// 8 floats.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_8(lanes: &[f32; 8]) -> __m256 {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_u64(lanes: &[u64; 8]) -> __m512i {
    // SAFETY: the array is as long as the register.
    unsafe { _mm512_loadu_epi64(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_u16(lanes: &[u16; 32]) -> __m512i {
    // SAFETY: the array is as long as the register.
    unsafe { _mm512_loadu_epi16(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_u8(lanes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is as long as the register.
    unsafe { _mm512_loadu_epi8(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn load_128(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: the slice is as long as the register.
    unsafe { _mm_loadu_epi8(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_512(bytes: &mut [u8], value: __m512i) {
    let bytes = &mut bytes[..64];
    // SAFETY: the slice is as long as the register.
    unsafe { _mm512_storeu_epi8(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_256(bytes: &mut [u8], value: __m256i) {
    let bytes = &mut bytes[..32];
    // SAFETY: the slice is as long as the register.
    unsafe { _mm256_storeu_epi8(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_128(bytes: &mut [u8], value: __m128i) {
    let bytes = &mut bytes[..16];
    // SAFETY: the slice is as long as the register.
    unsafe { _mm_storeu_epi8(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_f32(lanes: &mut [f32; LANES], value: __m512) {
    // SAFETY: the array is as long as the register.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_u64(words: &mut [u64], value: __m512i) {
    let words = &mut words[..8];
    // SAFETY: the slice is as long as the register.
    unsafe { _mm512_storeu_epi64(words.as_mut_ptr().cast(), value) }
}

/// 8 floats.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn store_8(lanes: &mut [f32; 8], value: __m256) {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), value) }
}

/// max |x| of `row`, as [`crate::format::quantized::largest_magnitude`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn largest_magnitude<const W: usize>(row: &Row<W>) -> f32 {
    let mut largest = [_mm512_setzero_ps(); 4];
    for word in row {
        for (largest, lanes) in largest.iter_mut().zip(load_word(word)) {
            // The maximum of a NaN and another is the second operand.
            *largest = _mm512_max_ps(_mm512_abs_ps(lanes), *largest);
        }
    }
    let [a, b, c, d] = largest;
    _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)))
}

/// 1 / `scale`, and 0 for 0, as which every value is then quantized.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn reciprocal(scale: __m512) -> __m512 {
    let is_some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(scale, _mm512_setzero_ps());
    _mm512_maskz_div_ps(is_some, _mm512_set1_ps(1.0), scale)
}

/// `value` in steps of which `reciprocal` is the reciprocal, as [`crate::format::quantized::to_code`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn to_code(value: __m512, reciprocal: __m512) -> __m512i {
    let steps = _mm512_mul_ps(value, reciprocal);
    // A NaN becomes 0.
    let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(steps, steps);
    let steps = _mm512_max_ps(steps, _mm512_set1_ps(-127.0));
    // The limits are whole numbers: rounding afterwards, which the conversion does, is the same.
    _mm512_maskz_cvtps_epi32(is_number, _mm512_min_ps(steps, _mm512_set1_ps(127.0)))
}

/// Nearest f16, as [`crate::format::float16::to_f16`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn to_f16(value: __m512) -> __m256i {
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let is_finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(value), infinity);
    let value = _mm512_mask_min_ps(value, is_finite, value, _mm512_set1_ps(F16_MAX));
    let value = _mm512_mask_max_ps(value, is_finite, value, _mm512_set1_ps(-F16_MAX));
    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)
}

/// Rows and columns of a square of 32-bit elements exchanged.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let (mut pairs, mut quads, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for i in (0..16).step_by(4) {
        quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // 128-bit part p of quads[4 * r + c] is column 4 * p + c of rows 4 * r to 4 * r + 3.
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(quads[c], quads[4 + c]);
        let low_odd = _mm512_shuffle_i32x4::<0xdd>(quads[c], quads[4 + c]);
        let high = _mm512_shuffle_i32x4::<0x88>(quads[8 + c], quads[12 + c]);
        let high_odd = _mm512_shuffle_i32x4::<0xdd>(quads[8 + c], quads[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, high);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(low_odd, high_odd);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(low_odd, high_odd);
    }
    out
}

/// As [`transpose`], of 8 rows.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    let zero = _mm256_setzero_ps();
    let (mut pairs, mut quads, mut out) = ([_mm256_setzero_pd(); 8], [zero; 8], [zero; 8]);
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
        pairs[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
    }
    for i in (0..8).step_by(4) {
        quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs[i], pairs[i + 2]));
        quads[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs[i], pairs[i + 2]));
        quads[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs[i + 1], pairs[i + 3]));
        quads[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs[i + 1], pairs[i + 3]));
    }
    // 128-bit part p of quads[4 * r + c] is column 4 * p + c of rows 4 * r to 4 * r + 3.
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
    }
    out
}
