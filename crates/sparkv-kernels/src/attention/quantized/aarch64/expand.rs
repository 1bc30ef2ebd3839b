//! Blocks read back into f32 with NEON.
//!
//! A look-up of bytes in a register brings values to where the mask has bits.

use std::arch::aarch64::*;

use crate::attention::quantized::expand;
use crate::attention::quantized::masks::Masks;
use crate::attention::quantized::shuffles::SHUFFLES;
use crate::format::Layout;
use crate::format::lanes::{QUAD, Unit};
use crate::simd::LANES;
use crate::simd::aarch64::{Neon, Vector};

/// Registers of bytes.
type Bytes<const N: usize> = [uint8x16_t; N];

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
fn load(bytes: &[u8; 16]) -> uint8x16_t {
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
fn load_unit(unit: &Unit) -> Bytes<4> {
    let mut registers = [vdupq_n_u8(0); 4];
    for (register, bytes) in registers.iter_mut().zip(unit.as_chunks().0) {
        *register = load(bytes);
    }
    registers
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

/// As [`crate::attention::quantized::packed::spread_codes`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn spread_codes(masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
    let flip = vdupq_n_u8(flip);
    let magnitudes = load_unit(magnitudes);
    let [is_kept, is_negative] = [byte_masks(masks.kept), byte_masks(masks.negative)];
    let mut read = 0;
    for (part, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let kept = (masks.kept >> (16 * part)) as u16;
        // There are no more than 16 values for each part before this one.
        let Some(values) = values[read..].first_chunk() else { return };
        read += kept.count_ones() as usize;
        let values = veorq_u8(vqtbl1q_u8(load(values), places(kept)), flip);
        // Two's complement.
        let pruned = vsubq_u8(veorq_u8(magnitudes[part], is_negative[part]), is_negative[part]);
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
