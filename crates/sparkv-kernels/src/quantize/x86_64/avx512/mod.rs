//! Quantizing with AVX-512: the bytes of [`crate::format::block::encode`], a block at a time.
//!
//! Rows are read where tokens are apart; what is stored has tokens side by side. So every row is turned into
//! bytes (codes) and bits (kept, negative) first, and these are transposed, which is cheap because they
//! are small; then what is kept is compressed in registers, 64 elements at a time.

mod choose;
mod lanes;
mod vectors;

use std::arch::x86_64::*;

use self::choose::{Chosen, choose};
use self::lanes::{Codes, Output, bits_in_lane_order, write_quads};
use self::vectors::{
    Row, largest_magnitude, load_f32, load_word, reciprocal, store_128, store_256, store_512, store_f32,
    to_code, to_f16,
};
use crate::format::lanes::Shape;
use crate::format::quantized::KEY_BIAS;
use crate::format::{BLOCK, F16_BYTES, Format, KeptFormat, Layout, Packing, Side};
use crate::simd::LANES;
use crate::simd::x86_64::Avx512;

/// Quantizes a block; the lengths are those of the layout, as [`crate::format::block::encode`] has them. `false` if that
/// is not done here.
pub(crate) fn quantize(_simd: Avx512, layout: &Layout, rows: &[f32], bytes: &mut [u8]) -> bool {
    // SAFETY: a value of `Avx512` is proof that the processor has these instructions.
    unsafe {
        // Words of 64 channels.
        match layout.head_dim().div_ceil(64) {
            1 => quantize_words::<1>(layout, rows, bytes),
            2 => quantize_words::<2>(layout, rows, bytes),
            3 | 4 => quantize_words::<4>(layout, rows, bytes),
            _ => quantize_words::<8>(layout, rows, bytes),
        }
    }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn quantize_words<const W: usize>(layout: &Layout, rows: &[f32], bytes: &mut [u8]) -> bool {
    let mut padded = None;
    let rows = if layout.head_dim() == 64 * W {
        rows.as_chunks().0.as_chunks().0.first_chunk::<BLOCK>()
    } else {
        let padded: &mut [Row<W>; BLOCK] = padded.insert([[[0.0; 64]; W]; BLOCK]);
        for (padded, row) in padded.iter_mut().zip(rows.chunks_exact(layout.head_dim())) {
            padded.as_flattened_mut()[..row.len()].copy_from_slice(row);
        }
        Some(&*padded)
    };
    let Some(rows) = rows else { return false };
    match layout.format() {
        Format::Int8 => quantize_int8::<W>(layout, rows, bytes),
        Format::Packed(packing) if packing.values == KeptFormat::Int8 => {
            quantize_packed::<W>(layout, &packing, rows, bytes);
        }
        _ => return false,
    }
    true
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn quantize_int8<const W: usize>(layout: &Layout, rows: &[Row<W>; BLOCK], bytes: &mut [u8]) {
    let shape = Shape { side: layout.side(), head_dim: layout.head_dim() };
    let mut largest = [0.0; BLOCK];
    for (largest, row) in largest.iter_mut().zip(rows) {
        *largest = largest_magnitude(row);
    }
    let mut scales = [0; BLOCK * F16_BYTES];
    let mut reciprocals = [0.0; BLOCK];
    for half in 0..BLOCK / LANES {
        let largest = load_f32(&largest.as_chunks().0[half]);
        let exact = _mm512_div_ps(largest, _mm512_set1_ps(127.0));
        store_scales(exact, half, &mut scales, &mut reciprocals);
    }
    let codes = int8_codes(shape.side, rows, &reciprocals);
    write_quads(&codes, shape, BLOCK, |unit| shape.bits(unit), &mut Output { bytes, len: 0 });
    bytes[BLOCK * shape.head_dim..].copy_from_slice(&scales);
}

/// Stores the scales of 16 rows as f16, and the reciprocals of what was stored.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn store_scales(exact: __m512, half: usize, scales: &mut [u8], reciprocals: &mut [f32; BLOCK]) {
    let scale = to_f16(exact);
    store_256(&mut scales[LANES * F16_BYTES * half..], scale);
    store_f32(&mut reciprocals.as_chunks_mut().0[half], reciprocal(_mm512_cvtph_ps(scale)));
}

/// The codes of a block of bytes, as they are stored.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn int8_codes<const W: usize>(side: Side, rows: &[Row<W>; BLOCK], reciprocals: &[f32; BLOCK]) -> Codes<W> {
    let bias = match side {
        Side::Keys => _mm512_set1_epi8(KEY_BIAS as i8),
        Side::Values => _mm512_setzero_si512(),
    };
    let mut codes = [[[0; 64]; W]; BLOCK];
    for ((codes, row), of) in codes.iter_mut().zip(rows).zip(reciprocals) {
        for (codes, row) in codes.iter_mut().zip(row) {
            let lanes = codes_of(row, *of);
            store_512(codes, _mm512_xor_si512(lanes, bias));
        }
    }
    codes
}

/// 64 channels in steps of which `of` is the reciprocal.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn codes_of(word: &[f32; 64], of: f32) -> __m512i {
    let of = _mm512_set1_ps(of);
    let [a, b, c, d] = load_word(word);
    let (a, b, c, d) = (to_code(a, of), to_code(b, of), to_code(c, of), to_code(d, of));
    // Packing goes by parts of 128 bits: each has 4 channels of a, of b, of c and of d.
    let parts = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    _mm512_permutexvar_epi32(order, parts)
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn quantize_packed<const W: usize>(
    layout: &Layout,
    packing: &Packing,
    rows: &[Row<W>; BLOCK],
    bytes: &mut [u8],
) {
    let shape = Shape { side: layout.side(), head_dim: layout.head_dim() };
    let sections = packing.sections(shape.head_dim);
    let chosen = choose::<W>(rows, shape.head_dim, packing);
    let (scalars, reciprocals) = scalars_of(&chosen);
    let kept = bits_in_lane_order(&chosen.kept, shape);
    let kept = kept.as_flattened();

    // Values first: writing them, a little is written into the next section.
    let codes = int8_codes(shape.side, rows, &reciprocals);
    write_quads(&codes, shape, BLOCK, |unit| kept[unit], &mut Output { bytes, len: 0 });
    let mut negative = bits_in_lane_order(&chosen.negative, shape);
    let negative = negative.as_flattened_mut();
    negative.iter_mut().zip(kept).for_each(|(negative, kept)| *negative &= !kept);
    shape.write_units(&negative[..shape.units()], &mut bytes[sections.signs..sections.scalars]);
    shape.write_units(&kept[..shape.units()], &mut bytes[sections.bitmap..sections.signs]);
    bytes[sections.scalars..sections.end].copy_from_slice(&scalars);
}

/// The scales and the magnitudes in steps of them, as they are stored, and the reciprocals of the scales.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn scalars_of<const W: usize>(chosen: &Chosen<W>) -> ([u8; (F16_BYTES + 1) * BLOCK], [f32; BLOCK]) {
    let mut scalars = [0; (F16_BYTES + 1) * BLOCK];
    let mut reciprocals = [0.0; BLOCK];
    for half in 0..BLOCK / LANES {
        let fill = load_f32(&chosen.fills.as_chunks().0[half]);
        let exact = int8_scale(load_f32(&chosen.largest.as_chunks().0[half]), fill);
        store_scales(exact, half, &mut scalars, &mut reciprocals);
        let steps = _mm512_abs_epi32(to_code(fill, reciprocal(exact)));
        store_128(&mut scalars[F16_BYTES * BLOCK + half * LANES..], _mm512_cvtepi32_epi8(steps));
    }
    (scalars, reciprocals)
}

/// As the function of that name of [`crate::format::packed`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn int8_scale(largest: __m512, fill: __m512) -> __m512 {
    let limit = _mm512_set1_ps(127.0);
    let steps = _mm512_mul_ps(limit, _mm512_div_ps(fill, largest));
    let steps = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(steps);
    let has_steps = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(steps, _mm512_set1_ps(1.0));
    let plain = _mm512_div_ps(largest, limit);
    _mm512_mask_div_ps(plain, has_steps, fill, _mm512_min_ps(steps, limit))
}
