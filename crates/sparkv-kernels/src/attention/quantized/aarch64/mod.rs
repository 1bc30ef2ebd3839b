//! Quantized blocks read on 64-bit Arm: which way each layout goes.

mod expand;

use crate::attention::quantized::masks::Masks;
use crate::attention::quantized::{ReadQuantized, Reading, integers};
use crate::attention::queries::QueryCodes;
use crate::attention::{ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::{Layout, Rows};
use crate::simd::aarch64::{Neon, Vector};
use crate::simd::{LANES, Simd};

// SAFETY of all blocks below: a value of `Neon` is proof that the processor has the instructions.
impl<const DOT: bool> ReadQuantized for Neon<DOT> {
    #[inline(always)]
    fn expand_keys(self, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
        // SAFETY: see above.
        unsafe { expand::keys(self, layout, block, keys) }
    }

    #[inline(always)]
    fn expand_values(self, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
        // SAFETY: see above.
        unsafe { expand::values(self, layout, block, values) }
    }

    #[inline(always)]
    fn widen_codes(self, codes: &Unit) -> [Vector; QUAD] {
        // SAFETY: see above.
        unsafe { expand::widen_codes(codes) }
    }

    #[inline(always)]
    fn spread_codes(self, masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
        // SAFETY: see above.
        unsafe { expand::spread_codes(masks, magnitudes, values, flip, codes) }
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
        let Some(simd) = self.with_dot() else { return false };
        simd.outline(integers::Score { layout, block, queries, reading, at })
    }

    #[inline(always)]
    fn weigh_codes(
        self,
        values: &Rows<'_>,
        at: WeightsAt<'_>,
        reading: Reading<'_>,
        sums: &mut [[f32; LANES]],
    ) -> bool {
        let Some(simd) = self.with_dot() else { return false };
        simd.outline(integers::Weigh { values, at, reading, sums })
    }
}
