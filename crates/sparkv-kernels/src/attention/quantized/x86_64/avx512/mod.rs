//! Quantized blocks read with AVX-512: which way each layout goes.

mod expand;
mod packed;

use crate::attention::quantized::{ReadQuantized, Reading, integers};
use crate::attention::queries::QueryCodes;
use crate::attention::{ScoresAt, WeightsAt};
use crate::format::{Format, KeptFormat, Layout, Packing, Rows};
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

/// As [`integers::score`], but for packed blocks.
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
    if let Some(packing) = packing_of(layout) {
        let keys = packed::Keys::new(block, &packing, layout.head_dim());
        packed::score(simd, &keys, queries, reading.prefetch, at);
        return true;
    }
    integers::score(simd, layout, block, queries, reading, at)
}

/// As [`integers::weigh`], but for packed blocks.
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
    if let Some(packing) = packing_of(values.layout()) {
        packed::weigh(simd, values, &packing, reading.prefetch, at, sums);
        return true;
    }
    integers::weigh(simd, values, at, reading, sums)
}
