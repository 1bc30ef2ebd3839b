//! Attention over packed rows of 8-bit integers: spread out in registers, and multiplied there.

use std::arch::x86_64::__m512i;

use super::avx512::Avx512;
use super::expand::{Kept, MaskWords, Masks};
use crate::arch::integers::{GROUPS, Integers, TOKEN_QUADS, Weights, store_scores};
use crate::block::KEY_BIAS;
use crate::lanes::QUAD;
use crate::layout::{BLOCK, F16_BYTES, GROUP, INT4_CHANNELS, Sections};
use crate::rows::{Rows, Upcoming};
use crate::score::{BlockScores, Codes, KEY_BLOCK, PANEL};
use crate::select::{Levels, Packing};
use crate::simd::{LANES, Simd};

/// Scores of a packed block of keys with int8 values for all queries.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn score(
    simd: Avx512,
    block: &[u8],
    (packing, head_dim): (&Packing, usize),
    (queries, upcoming): (&Codes, &mut Upcoming),
    (scores, group): (&mut [BlockScores], usize),
) {
    let quads = head_dim / QUAD;
    upcoming.spread(BLOCK, quads);
    let sections = packing.sections(head_dim);
    let scales = block[sections.scalars..sections.steps].as_chunks::<{ F16_BYTES * LANES }>().0;
    let scales = [simd.load_f16(&scales[0]), simd.load_f16(&scales[1])];
    let panels =
        queries.quads.chunks_exact(quads).zip(queries.sums.chunks_exact(head_dim.div_ceil(INT4_CHANNELS)));
    for (((panel, sums), query_scales), scores) in
        panels.zip(&queries.scales).zip(scores.chunks_exact_mut(PANEL))
    {
        let keys = Keys { block, packing, quads };
        let sums = match packing.levels {
            Levels::One => keys.multiply::<false>(simd, panel, sums, upcoming),
            Levels::Two => keys.multiply::<true>(simd, panel, sums, upcoming),
        };
        let mut totals = [[simd.splat(0.0); GROUPS]; PANEL];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for ((total, sums), scale) in totals.iter_mut().zip(sums).zip(scales) {
                *total = simd.mul(simd.to_f32(sums), scale);
            }
        }
        store_scores(simd, totals, query_scales, (scores, group));
        // Once is enough.
        upcoming.pause();
    }
}

/// A packed block of keys.
struct Keys<'a> {
    block: &'a [u8],
    packing: &'a Packing,
    /// Words of masks for each group.
    quads: usize,
}

impl Keys<'_> {
    /// Products with the queries of a panel, in whole numbers.
    #[inline(always)]
    fn multiply<const TWO_LEVELS: bool>(
        &self,
        simd: Avx512,
        panel: &[[i32; PANEL]],
        sums: &[[i32; PANEL]],
        upcoming: &mut Upcoming,
    ) -> [[__m512i; GROUPS]; PANEL] {
        let sections = self.packing.sections(self.quads * QUAD);
        let steps = self.block[sections.steps..sections.end].as_chunks::<GROUP>().0;
        let bias = simd.splat_i32(i32::from_le_bytes([KEY_BIAS; QUAD]));
        let fills = |group: usize| {
            let low = simd.each_four_times(&steps[group]);
            let high = if TWO_LEVELS { simd.each_four_times(&steps[GROUPS + group]) } else { low };
            [low, high]
        };
        let fills = [fills(0), fills(1)];
        let words = MaskWords::new(self.block, &sections);
        let mut kept = [0, GROUP * self.packing.kept].map(|first| Kept::new(simd, self.block, first));
        let mut acc = [[simd.splat_i32(0); GROUPS]; PANEL];
        for slot in 0..PANEL {
            let mut sum = 0;
            for sums in sums {
                sum += sums[slot];
            }
            acc[slot] = [simd.splat_i32(-i32::from(KEY_BIAS) * sum); GROUPS];
        }
        let masks = words.iter(0).zip(words.iter(self.quads));
        for (query, (first, second)) in panel.iter().zip(masks) {
            upcoming.ask(simd);
            let keys = [
                spread::<TWO_LEVELS>(simd, first, bias, fills[0], &mut kept[0]),
                spread::<TWO_LEVELS>(simd, second, bias, fills[1], &mut kept[1]),
            ];
            for slot in 0..PANEL {
                let query = simd.splat_i32(query[slot]);
                for group in 0..GROUPS {
                    acc[slot][group] = simd.dot(acc[slot][group], keys[group], query);
                }
            }
        }
        acc
    }
}

/// Adds to `sums` (queries, head_dim / 16) the values of packed blocks with int8 values by their weights.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn weigh(
    simd: Avx512,
    (values, packing): (&Rows<'_>, &Packing),
    upcoming: &mut Upcoming,
    (weights, group): (&[BlockScores], usize),
    sums: &mut [[f32; LANES]],
) {
    let vectors = values.layout().head_dim() / LANES;
    upcoming.spread(values.len(), values.len() / QUAD * vectors);
    let sections = packing.sections(values.layout().head_dim());
    for (weights, sums) in weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors)) {
        let scales = values.units().map(|block| &block[sections.scalars..sections.steps]);
        let weights = Weights::new(simd, scales, 0, (weights, group), 255.0);
        // Kept values of each block read so far: where the next vector's begin is not known before.
        let mut read = [0; KEY_BLOCK / BLOCK];
        for vector in 0..vectors {
            let mut acc = [simd.splat_i32(0); PANEL];
            for ((block, weights), read) in values.units().zip(&weights.quads).zip(&mut read) {
                let block = Values { block, sections: &sections, vector };
                match packing.levels {
                    Levels::One => block.multiply::<false>(simd, weights, (&mut acc, read), upcoming),
                    Levels::Two => block.multiply::<true>(simd, weights, (&mut acc, read), upcoming),
                }
            }
            weights.add_to(simd, acc.as_chunks::<1>().0, (&mut *sums, vectors), vector);
        }
        // Once is enough.
        upcoming.pause();
    }
}

/// 16 channels of a packed block of values.
struct Values<'a> {
    block: &'a [u8],
    sections: &'a Sections,
    vector: usize,
}

impl Values<'_> {
    /// Adds the products with the weights of a panel, in whole numbers. `read`: kept values read so far.
    #[inline(always)]
    fn multiply<const TWO_LEVELS: bool>(
        &self,
        simd: Avx512,
        weights: &[[i32; PANEL]; TOKEN_QUADS],
        (acc, read): (&mut [__m512i; PANEL], &mut usize),
        upcoming: &mut Upcoming,
    ) {
        let steps = self.block[self.sections.steps..self.sections.end].as_chunks::<QUAD>().0;
        let (low, high) = if TWO_LEVELS { steps.split_at(steps.len() / 2) } else { (steps, steps) };
        let mut kept = Kept::new(simd, self.block, *read);
        let zero = simd.splat_i32(0);
        let words = MaskWords::new(self.block, self.sections);
        let masks = words.iter(self.vector * TOKEN_QUADS);
        for (((weights, low), high), masks) in weights.iter().zip(low).zip(high).zip(masks) {
            upcoming.ask(simd);
            let fills = [low, high].map(|steps| i32::from_le_bytes(*steps));
            let fills = [simd.splat_i32(fills[0]), simd.splat_i32(fills[1])];
            let values = spread::<TWO_LEVELS>(simd, masks, zero, fills, &mut kept);
            for slot in 0..PANEL {
                acc[slot] = simd.dot(acc[slot], simd.splat_i32(weights[slot]), values);
            }
        }
        *read = kept.read();
    }
}

/// 64 elements: what is kept, and for the others `zero` plus or minus a magnitude.
#[inline(always)]
fn spread<const TWO_LEVELS: bool>(
    simd: Avx512,
    masks: Masks,
    zero: __m512i,
    [low, high]: [__m512i; 2],
    kept: &mut Kept<'_>,
) -> __m512i {
    let magnitude = if TWO_LEVELS { simd.choose(masks.high, low, high) } else { low };
    let filled = simd.plus_minus(zero, masks.negative, magnitude);
    simd.expand_bytes(filled, masks.kept, kept.next(masks.kept.count_ones()))
}
