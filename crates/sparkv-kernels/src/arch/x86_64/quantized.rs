//! Which way each quantized layout goes.

use super::avx512::{Avx512, Quad};
use super::codes::{self, Codes8};
use super::{expand, packed};
use crate::block::{INT4_BIAS, KEY_BIAS};
use crate::layout::{BLOCK, Format, GROUP, INT4_CHANNELS, Layout};
use crate::rows::{Rows, Upcoming};
use crate::score::{BlockScores, Codes, Expanded, KEY_BLOCK};
use crate::select::{KeptFormat, Packing};
use crate::simd::LANES;

/// A packed layout whose rows fill registers, if its values are of that format.
fn packing_of(layout: &Layout, values: KeptFormat) -> Option<Packing> {
    match layout.format() {
        Format::Packed(packing) if packing.values == values && layout.head_dim().is_multiple_of(LANES) => {
            Some(packing)
        }
        _ => None,
    }
}

/// Reads a quantized block of keys into (2 groups, head_dim).
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn expand_keys(simd: Avx512, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
    let vectors = BLOCK / GROUP * layout.head_dim();
    match packing_of(layout, KeptFormat::F16) {
        Some(packing) => expand::f16_keys(simd, block, &packing, &mut keys[..vectors]),
        None => crate::expand::keys(simd, layout, block, keys),
    }
}

/// Reads a quantized block of values into (BLOCK, ceil(head_dim / 16)).
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn expand_values(simd: Avx512, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
    let vectors = BLOCK * layout.head_dim().div_ceil(LANES);
    match packing_of(layout, KeptFormat::F16) {
        Some(packing) => expand::f16_values(simd, block, &packing, &mut values[..vectors]),
        None => crate::expand::values(simd, layout, block, values),
    }
}

/// Scores a block of keys as integers; `false` if it is none.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn score_codes(
    simd: Avx512,
    layout: &Layout,
    block: &[u8],
    queries: &Codes,
    (expanded, upcoming): (&mut Expanded, &mut Upcoming),
    scores: (&mut [BlockScores], usize),
) -> bool {
    let head_dim = layout.head_dim();
    let codes = &mut expanded.codes.as_mut_slice()[..BLOCK * head_dim / size_of::<Quad>()];
    match layout.format() {
        Format::Int8 => {
            let (codes, scales) = block.split_at(BLOCK * head_dim);
            let codes = (codes.as_chunks().0, i32::from(KEY_BIAS));
            codes::score(simd, codes, (scales, usize::MAX), (queries, upcoming), scores);
        }
        Format::Int4 => {
            let (nibbles, scales) = block.split_at(BLOCK / 2 * head_dim);
            expand::nibbles(simd, nibbles, codes);
            let codes = (&*codes, i32::from(INT4_BIAS));
            codes::score(simd, codes, (scales, INT4_CHANNELS), (queries, upcoming), scores);
        }
        _ => {
            let Some(packing) = packing_of(layout, KeptFormat::Int8) else { return false };
            packed::score(simd, block, (&packing, head_dim), (queries, upcoming), scores);
        }
    }
    true
}

/// Adds weighted blocks of values as integers; `false` if they are none, or their rows do not fill registers.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn weigh_codes(
    simd: Avx512,
    values: &Rows<'_>,
    weights: (&[BlockScores], usize),
    (expanded, upcoming): (&mut Expanded, &mut Upcoming),
    sums: &mut [[f32; LANES]],
) -> bool {
    let layout = values.layout();
    let head_dim = layout.head_dim();
    if !head_dim.is_multiple_of(LANES) {
        return false;
    }
    if let Some(packing) = packing_of(layout, KeptFormat::Int8) {
        packed::weigh(simd, (values, &packing), upcoming, weights, sums);
        return true;
    }
    let registers = BLOCK * head_dim / size_of::<Quad>();
    let mut codes = expanded.codes.as_mut_slice().chunks_exact_mut(registers);
    let mut blocks = [Codes8 { codes: &[], scales: &[] }; KEY_BLOCK / BLOCK];
    for (slot, block) in blocks.iter_mut().zip(values.units()) {
        *slot = match layout.format() {
            Format::Int8 => {
                let (codes, scales) = block.split_at(BLOCK * head_dim);
                Codes8 { codes: codes.as_chunks().0, scales }
            }
            Format::Int4 => {
                let Some(codes) = codes.next() else { return false };
                let (nibbles, scales) = block.split_at(BLOCK / 2 * head_dim);
                expand::nibbles(simd, nibbles, codes);
                Codes8 { codes, scales }
            }
            _ => return false,
        };
    }
    let blocks = &blocks[..values.units().len()];
    codes::weigh(simd, (blocks, layout.format() == Format::Int4), upcoming, weights, sums);
    true
}
