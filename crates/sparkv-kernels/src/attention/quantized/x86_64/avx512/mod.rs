//! Quantized blocks read with AVX-512: which way each layout goes.

mod expand;
mod packed;

use crate::attention::quantized::{ReadQuantized, Reading, integers};
use crate::attention::queries::QueryCodes;
use crate::attention::{ScoresAt, WeightsAt};
use crate::format::{Format, KeptFormat, Layout, Packing, Rows};
use crate::simd::x86_64::Avx512;
use crate::simd::{LANES, Simd};

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
        let Some(packing) = packing_of(layout) else {
            return self.outline(integers::Score { layout, block, queries, reading, at });
        };
        let keys = packed::Keys::new(block, &packing, layout.head_dim());
        // SAFETY: `self` is proof of the instructions.
        unsafe { packed::score(self, &keys, queries, reading.prefetch, at) }
        true
    }

    #[inline(always)]
    fn weigh_codes(
        self,
        values: &Rows<'_>,
        at: WeightsAt<'_>,
        reading: Reading<'_>,
        sums: &mut [[f32; LANES]],
    ) -> bool {
        let Some(packing) = packing_of(values.layout()) else {
            return self.outline(integers::Weigh { values, at, reading, sums });
        };
        // SAFETY: `self` is proof of the instructions.
        unsafe { packed::weigh(self, values, &packing, reading.prefetch, at, sums) }
        true
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
