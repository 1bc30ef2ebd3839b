//! Attention over packed rows of 8-bit integers: spread out in registers, and multiplied there.

use std::arch::x86_64::__m512i;

use super::expand::KeptRegisters;
use crate::attention::prefetch::Prefetch;
use crate::attention::quantized::masks::{MaskWords, Masks};
use crate::attention::quantized::weights::{PanelSums, Weights, store_scores};
use crate::attention::quantized::{GROUPS, TOKEN_QUADS};
use crate::attention::queries::QueryCodes;
use crate::attention::{KEY_BLOCK, PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Shape};
use crate::format::packing::Sections;
use crate::format::quantized::KEY_BIAS;
use crate::format::{BLOCK, F16_BYTES, GROUP, Packing, Rows, Side};
use crate::simd::integers::Integers;
use crate::simd::x86_64::Avx512;
use crate::simd::{LANES, Simd};

/// Scores of a packed block of keys with int8 values for all queries.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn score(
    simd: Avx512,
    keys: &Keys<'_>,
    queries: &QueryCodes,
    prefetch: &mut Prefetch,
    at: ScoresAt<'_>,
) {
    let Keys { block, packing, quads } = *keys;
    let head_dim = quads * QUAD;
    prefetch.spread(BLOCK, quads);
    let sections = packing.sections(head_dim);
    let scales = block[sections.scalars..sections.steps].as_chunks::<{ F16_BYTES * LANES }>().0;
    let scales = [simd.load_f16(&scales[0]), simd.load_f16(&scales[1])];
    for (panel, scores) in queries.panels().zip(at.scores.chunks_exact_mut(PANEL)) {
        let sums = keys.multiply(simd, panel.quads, panel.sums, prefetch);
        let mut totals = [[simd.splat(0.0); GROUPS]; PANEL];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for ((total, sums), scale) in totals.iter_mut().zip(sums).zip(scales) {
                *total = simd.mul(simd.to_f32(sums), scale);
            }
        }
        store_scores(simd, totals, panel.scales, ScoresAt { scores, group: at.group });
        // Once is enough.
        prefetch.pause();
    }
}

/// A packed block of keys.
pub(super) struct Keys<'a> {
    block: &'a [u8],
    packing: &'a Packing,
    /// Words of masks for each group.
    quads: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn new(block: &'a [u8], packing: &'a Packing, head_dim: usize) -> Self {
        Self { block, packing, quads: head_dim / QUAD }
    }

    /// Products with the queries of a panel, in whole numbers.
    #[inline(always)]
    fn multiply(
        &self,
        simd: Avx512,
        panel: &[[i32; PANEL]],
        sums: &[[i32; PANEL]],
        prefetch: &mut Prefetch,
    ) -> [[__m512i; GROUPS]; PANEL] {
        let sections = self.packing.sections(self.quads * QUAD);
        let steps = self.block[sections.steps..sections.end].as_chunks::<GROUP>().0;
        let bias = simd.splat_i32(i32::from_le_bytes([KEY_BIAS; QUAD]));
        let fills = [simd.each_four_times(&steps[0]), simd.each_four_times(&steps[1])];
        let shape = Shape { side: Side::Keys, head_dim: self.quads * QUAD };
        let words = MaskWords::new(shape, &sections, self.block);
        let mut kept =
            [0, GROUP * self.packing.kept].map(|first| KeptRegisters::new(simd, self.block, first));
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
            prefetch.ask(simd);
            let keys = [
                spread(simd, first, bias, fills[0], &mut kept[0]),
                spread(simd, second, bias, fills[1], &mut kept[1]),
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
    values: &Rows<'_>,
    packing: &Packing,
    prefetch: &mut Prefetch,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let shape = Shape { side: Side::Values, head_dim: values.layout().head_dim() };
    let vectors = shape.head_dim / LANES;
    prefetch.spread(values.len(), values.len() / QUAD * vectors);
    let sections = packing.sections(shape.head_dim);
    for (weights, sums) in at.weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors)) {
        let scales = values.units().map(|block| &block[sections.scalars..sections.steps]);
        let at = WeightsAt { weights, group: at.group };
        let weights = Weights::new(simd, scales, Avx512::LARGEST_WEIGHT, at);
        // KeptRegisters values of each block read so far: where the next vector's begin is not known before.
        let mut read = [0; KEY_BLOCK / BLOCK];
        for vector in 0..vectors {
            let mut acc = [simd.splat_i32(0); PANEL];
            for ((block, weights), read) in values.units().zip(&weights.quads).zip(&mut read) {
                let block = Values { block, shape, sections: &sections, vector };
                block.multiply(simd, weights, &mut acc, read, prefetch);
            }
            let sums = PanelSums { sums: &mut *sums, vectors, first: vector };
            weights.add_to(simd, &[acc], None, sums);
        }
        // Once is enough.
        prefetch.pause();
    }
}

/// 16 channels of a packed block of values.
struct Values<'a> {
    block: &'a [u8],
    shape: Shape,
    sections: &'a Sections,
    vector: usize,
}

impl Values<'_> {
    /// Adds the products with the weights of a panel, in whole numbers. `read`: kept values read so far.
    #[inline(always)]
    fn multiply(
        &self,
        simd: Avx512,
        weights: &[[i32; PANEL]; TOKEN_QUADS],
        acc: &mut [__m512i; PANEL],
        read: &mut usize,
        prefetch: &mut Prefetch,
    ) {
        let steps = self.block[self.sections.steps..self.sections.end].as_chunks::<QUAD>().0;
        let mut kept = KeptRegisters::new(simd, self.block, *read);
        let zero = simd.splat_i32(0);
        let words = MaskWords::new(self.shape, self.sections, self.block);
        let masks = words.iter(self.vector * TOKEN_QUADS);
        for ((weights, steps), masks) in weights.iter().zip(steps).zip(masks) {
            prefetch.ask(simd);
            let fill = simd.splat_i32(i32::from_le_bytes(*steps));
            let values = spread(simd, masks, zero, fill, &mut kept);
            for slot in 0..PANEL {
                acc[slot] = simd.dot(acc[slot], simd.splat_i32(weights[slot]), values);
            }
        }
        *read = kept.read();
    }
}

/// 64 elements: what is kept, and for the others `zero` plus or minus the magnitude.
#[inline(always)]
fn spread(
    simd: Avx512,
    masks: Masks,
    zero: __m512i,
    magnitude: __m512i,
    kept: &mut KeptRegisters<'_>,
) -> __m512i {
    let filled = simd.plus_minus(zero, masks.negative, magnitude);
    simd.expand_bytes(filled, masks.kept, kept.next(masks.kept.count_ones()))
}
