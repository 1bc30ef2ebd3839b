//! Quantized blocks read with AVX-512: which way each layout goes.

mod codes;
mod expand;
mod packed;

use self::codes::{Codes8, KeyCodes};
use crate::attention::quantized::{ReadQuantized, Reading};
use crate::attention::queries::QueryCodes;
use crate::attention::{KEY_BLOCK, ScoresAt, WeightsAt};
use crate::format::lanes::Unit;
use crate::format::quantized::{INT4_BIAS, KEY_BIAS};
use crate::format::{BLOCK, Format, INT4_CHANNELS, KeptFormat, Layout, Packing, Rows};
use crate::simd::LANES;
use crate::simd::x86_64::Avx512;

impl ReadQuantized for Avx512 {
    #[inline(always)]
    fn expand_keys(self, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
        // SAFETY: `self` is proof of the instructions.
        unsafe { expand_keys(self, layout, block, keys) }
    }

    #[inline(always)]
    fn expand_values(self, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
        // SAFETY: `self` is proof of the instructions.
        unsafe { expand_values(self, layout, block, values) }
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
        // SAFETY: `self` is proof of the instructions.
        unsafe { score_codes(self, layout, block, queries, reading, at) }
    }

    #[inline(always)]
    fn weigh_codes(
        self,
        values: &Rows<'_>,
        at: WeightsAt<'_>,
        reading: Reading<'_>,
        sums: &mut [[f32; LANES]],
    ) -> bool {
        // SAFETY: `self` is proof of the instructions.
        unsafe { weigh_codes(self, values, at, reading, sums) }
    }
}

/// As [`super::super::expand::keys`], compiled for AVX-512.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
fn expand_keys(simd: Avx512, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
    super::super::expand::keys(simd, layout, block, keys);
}

/// As [`super::super::expand::values`], compiled for AVX-512.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
fn expand_values(simd: Avx512, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
    super::super::expand::values(simd, layout, block, values);
}

/// How rows are packed, if their values are int8 and they fill registers.
fn packing_of(layout: &Layout) -> Option<Packing> {
    match layout.format() {
        Format::Packed(packing)
            if packing.values == KeptFormat::Int8 && layout.head_dim().is_multiple_of(LANES) =>
        {
            Some(packing)
        }
        _ => None,
    }
}

/// Scores a block of keys as integers; `false` if it is none.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
fn score_codes(
    simd: Avx512,
    layout: &Layout,
    block: &[u8],
    queries: &QueryCodes,
    reading: Reading<'_>,
    at: ScoresAt<'_>,
) -> bool {
    let head_dim = layout.head_dim();
    let codes = &mut reading.expanded.codes.as_mut_slice()[..BLOCK * head_dim / size_of::<Unit>()];
    match layout.format() {
        Format::Int8 => {
            let (codes, scales) = block.split_at(BLOCK * head_dim);
            let keys =
                KeyCodes { codes: codes.as_chunks().0, bias: i32::from(KEY_BIAS), scales, fold: usize::MAX };
            codes::score(simd, &keys, queries, reading.prefetch, at);
        }
        Format::Int4 => {
            let (nibbles, scales) = block.split_at(BLOCK / 2 * head_dim);
            expand::nibbles(simd, nibbles, codes);
            let keys = KeyCodes { codes, bias: i32::from(INT4_BIAS), scales, fold: INT4_CHANNELS };
            codes::score(simd, &keys, queries, reading.prefetch, at);
        }
        _ => {
            let Some(packing) = packing_of(layout) else { return false };
            packed::score(simd, &packed::Keys::new(block, &packing, head_dim), queries, reading.prefetch, at);
        }
    }
    true
}

/// Adds weighted blocks of values as integers; `false` if they are none, or their rows do not fill registers.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
fn weigh_codes(
    simd: Avx512,
    values: &Rows<'_>,
    at: WeightsAt<'_>,
    reading: Reading<'_>,
    sums: &mut [[f32; LANES]],
) -> bool {
    let layout = values.layout();
    let head_dim = layout.head_dim();
    if !head_dim.is_multiple_of(LANES) {
        return false;
    }
    if let Some(packing) = packing_of(layout) {
        packed::weigh(simd, values, &packing, reading.prefetch, at, sums);
        return true;
    }
    let registers = BLOCK * head_dim / size_of::<Unit>();
    let mut codes = reading.expanded.codes.as_mut_slice().chunks_exact_mut(registers);
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
    codes::weigh(simd, blocks, layout.format() == Format::Int4, reading.prefetch, at, sums);
    true
}
