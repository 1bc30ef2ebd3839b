//! Quantized blocks read back into f32 with NEON.
//!
//! A look-up of bytes in a register brings values to where the mask has bits.

use std::arch::aarch64::*;

use super::neon::{Neon, Vector};
use crate::arch::shuffles::SHUFFLES;
use crate::block::INT4_BIAS;
use crate::expand::{self, Masks, Unit};
use crate::lanes::QUAD;
use crate::layout::{F16_BYTES, Layout};
use crate::simd::LANES;

/// Registers of bytes.
pub(super) type Bytes<const N: usize> = [uint8x16_t; N];

/// As [`expand::keys`], compiled for NEON.
#[target_feature(enable = "neon")]
pub(super) fn keys<const DOT: bool>(
    simd: Neon<DOT>,
    layout: &Layout,
    block: &[u8],
    keys: &mut [[f32; LANES]],
) {
    expand::keys(simd, layout, block, keys);
}

/// As [`expand::values`], compiled for NEON.
#[target_feature(enable = "neon")]
pub(super) fn values<const DOT: bool>(
    simd: Neon<DOT>,
    layout: &Layout,
    block: &[u8],
    values: &mut [[f32; LANES]],
) {
    expand::values(simd, layout, block, values);
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array is as long as a register.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(register: uint8x16_t, bytes: &mut [u8; 16]) {
    // SAFETY: the array is as long as a register.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), register) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_unit(unit: &Unit) -> Bytes<4> {
    let mut registers = [vdupq_n_u8(0); 4];
    for (register, bytes) in registers.iter_mut().zip(unit.as_chunks().0) {
        *register = load(bytes);
    }
    registers
}

/// The two nibbles of every byte, low ones first, in two's complement: a block of int4 becomes one of bytes.
#[target_feature(enable = "neon")]
pub(super) fn nibbles(nibbles: &[u8], codes: &mut [Unit]) {
    let bias = vdupq_n_u8(INT4_BIAS);
    for (bytes, [low, high]) in nibbles.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        let [low, high] = [low, high].map(|unit| unit.as_chunks_mut().0);
        for ((bytes, low), high) in load_unit(bytes).into_iter().zip(low).zip(high) {
            store(vsubq_u8(vandq_u8(bytes, vdupq_n_u8(15)), bias), low);
            store(vsubq_u8(vshrq_n_u8::<4>(bytes), bias), high);
        }
    }
}

/// Where byte `term` of each lane is, to be its highest; the others become zeros.
const fn tops(term: u8) -> [u8; 16] {
    let mut places = [0x80; 16];
    let mut lane = 0;
    while lane < 4 {
        places[4 * lane + 3] = 4 * lane as u8 + term;
        lane += 1;
    }
    places
}

/// For each term of a quad.
const TOPS: [[u8; 16]; QUAD] = [tops(0), tops(1), tops(2), tops(3)];

/// The four bytes of each lane, as numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen_codes(codes: &Unit) -> [Vector; QUAD] {
    let registers = load_unit(codes);
    let mut terms = [[vdupq_n_f32(0.0); 4]; QUAD];
    for (term, places) in terms.iter_mut().zip(&TOPS) {
        let places = load(places);
        for (numbers, codes) in term.iter_mut().zip(registers) {
            let tops = vreinterpretq_s32_u8(vqtbl1q_u8(codes, places));
            // Numbers with 24 bits behind the point.
            *numbers = vcvtq_n_f32_s32::<24>(tops);
        }
    }
    terms
}

/// As [`expand::spread_codes`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn spread_codes(
    masks: Masks,
    magnitudes: &[Unit; 2],
    (values, flip): (&Unit, u8),
    codes: &mut Unit,
) {
    let flip = vdupq_n_u8(flip);
    let [low, high] = [load_unit(&magnitudes[0]), load_unit(&magnitudes[1])];
    let [is_kept, is_negative, is_high] =
        [byte_masks(masks.kept), byte_masks(masks.negative), byte_masks(masks.high)];
    let mut read = 0;
    for (part, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let kept = (masks.kept >> (16 * part)) as u16;
        // There are no more than 16 values for each part before this one.
        let Some(values) = values[read..].first_chunk() else { return };
        read += kept.count_ones() as usize;
        let values = veorq_u8(vqtbl1q_u8(load(values), places(kept)), flip);
        let magnitude = vbslq_u8(is_high[part], high[part], low[part]);
        // Two's complement.
        let pruned = vsubq_u8(veorq_u8(magnitude, is_negative[part]), is_negative[part]);
        store(vbslq_u8(is_kept[part], values, pruned), codes);
    }
}

/// Where the bytes of 16 elements come from; anything for those that are not kept.
#[inline]
#[target_feature(enable = "neon")]
fn places(kept: u16) -> uint8x16_t {
    let [first, second] = kept.to_le_bytes();
    let before = first.count_ones() as u8;
    vcombine_u8(eight_places(first), vadd_u8(eight_places(second), vdup_n_u8(before)))
}

/// The same for eight.
#[inline]
#[target_feature(enable = "neon")]
fn eight_places(kept: u8) -> uint8x8_t {
    vcreate_u8(u64::from_le_bytes(SHUFFLES[usize::from(kept)]))
}

/// Bytes of ones where bits are set.
#[inline]
#[target_feature(enable = "neon")]
fn byte_masks(bits: u64) -> Bytes<4> {
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let bits = vreinterpretq_u8_u64(vdupq_n_u64(bits));
    let mut each_byte_eight_times =
        vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(0), vcreate_u64(0x0101_0101_0101_0101)));
    let mut masks = [vdupq_n_u8(0); 4];
    for mask in &mut masks {
        *mask = vtstq_u8(vqtbl1q_u8(bits, each_byte_eight_times), bit);
        each_byte_eight_times = vaddq_u8(each_byte_eight_times, vdupq_n_u8(2));
    }
    masks
}

/// Lanes of ones where bits are set, for each register of a vector.
#[inline]
#[target_feature(enable = "neon")]
fn lane_masks(bits: u16) -> [uint32x4_t; 4] {
    let bits = vdupq_n_u32(u32::from(bits));
    let mut bit = vreinterpretq_u32_u64(vcombine_u64(vcreate_u64(2 << 32 | 1), vcreate_u64(8 << 32 | 4)));
    let mut masks = [vdupq_n_u32(0); 4];
    for mask in &mut masks {
        *mask = vtstq_u32(bits, bit);
        bit = vshlq_n_u32::<4>(bit);
    }
    masks
}

/// As [`expand::spread_floats`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn spread_floats<const BYTES: usize, const DOT: bool>(
    simd: Neon<DOT>,
    [kept, negative, is_high]: [u16; 3],
    [low, high]: [Vector; 2],
    values: &Unit,
) -> Vector {
    let [first, second] = kept.to_le_bytes();
    // The first eight take no more than eight values, so that there are eight for the others.
    let rest = &values[first.count_ones() as usize * BYTES..];
    let (first, second) =
        (eight_floats::<BYTES, DOT>(simd, first, values), eight_floats::<BYTES, DOT>(simd, second, rest));
    let spread = [first[0], first[1], second[0], second[1]];
    let (kept, negative, is_high) = (lane_masks(kept), lane_masks(negative), lane_masks(is_high));
    let mut floats = spread;
    for (part, float) in floats.iter_mut().enumerate() {
        let magnitude = vreinterpretq_u32_f32(vbslq_f32(is_high[part], high[part], low[part]));
        let sign = vandq_u32(negative[part], vdupq_n_u32(1 << 31));
        *float = vbslq_f32(kept[part], *float, vreinterpretq_f32_u32(veorq_u32(magnitude, sign)));
    }
    floats
}

/// The first of `values` where the mask is set; anything elsewhere.
#[inline]
#[target_feature(enable = "neon")]
fn eight_floats<const BYTES: usize, const DOT: bool>(
    simd: Neon<DOT>,
    kept: u8,
    values: &[u8],
) -> [float32x4_t; 2] {
    let places = eight_places(kept);
    let [halves, _] = places_of_bytes(vcombine_u8(places, places));
    if BYTES == F16_BYTES {
        let Some(values) = values.first_chunk() else { return [vdupq_n_f32(0.0); 2] };
        return simd.widen_f16(vreinterpretq_u16_u8(vqtbl1q_u8(load(values), halves)));
    }
    let Some([a, b]) = values.as_chunks().0.first_chunk() else { return [vdupq_n_f32(0.0); 2] };
    let values = uint8x16x2_t(load(a), load(b));
    let [low, high] = places_of_bytes(halves);
    [vreinterpretq_f32_u8(vqtbl2q_u8(values, low)), vreinterpretq_f32_u8(vqtbl2q_u8(values, high))]
}

/// From the places of elements, those of the two bytes of each.
#[inline]
#[target_feature(enable = "neon")]
fn places_of_bytes(places: uint8x16_t) -> [uint8x16_t; 2] {
    let first_and_second = vreinterpretq_u8_u16(vdupq_n_u16(0x0100));
    [
        vorrq_u8(vshlq_n_u8::<1>(vzip1q_u8(places, places)), first_and_second),
        vorrq_u8(vshlq_n_u8::<1>(vzip2q_u8(places, places)), first_and_second),
    ]
}
