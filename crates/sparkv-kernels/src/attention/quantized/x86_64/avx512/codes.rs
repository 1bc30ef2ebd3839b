//! Attention over rows of 8-bit integers.
//!
//! `vpdpbusd` adds four products of an unsigned and a signed byte in each of 16 lanes. The unsigned operand is
//! the codes of keys, and the weights of values.

use crate::attention::prefetch::Prefetch;
use crate::attention::quantized::weights::{PanelSums, Weights, store_scores};
use crate::attention::quantized::{GROUPS, TOKEN_QUADS};
use crate::attention::queries::QueryCodes;
use crate::attention::{PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::quantized::INT4_BIAS;
use crate::format::{BLOCK, F16_BYTES, INT4_CHANNELS};
use crate::simd::integers::Integers;
use crate::simd::x86_64::Avx512;
use crate::simd::{LANES, Simd};

/// A block of keys.
pub(super) struct KeyCodes<'a> {
    /// (2 groups, head_dim / 4)
    pub(super) codes: &'a [Unit],
    /// What was added to codes.
    pub(super) bias: i32,
    /// (head_dim / fold, BLOCK) f16.
    pub(super) scales: &'a [u8],
    /// Channels that share a scale.
    pub(super) fold: usize,
}

/// Scores of a block of keys for all queries.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn score(
    simd: Avx512,
    keys: &KeyCodes<'_>,
    queries: &QueryCodes,
    prefetch: &mut Prefetch,
    at: ScoresAt<'_>,
) {
    let KeyCodes { codes, bias, scales, fold } = *keys;
    let quads = codes.len() / GROUPS;
    prefetch.spread(BLOCK, quads);
    let (first, second) = codes.split_at(quads);
    let sums_of_panel = (quads * QUAD).div_ceil(INT4_CHANNELS);
    let scales = scales.as_chunks::<{ F16_BYTES * LANES }>().0;
    let panels = queries.quads.chunks_exact(quads).zip(queries.sums.chunks_exact(sums_of_panel));
    for (((panel, sums), query_scales), scores) in
        panels.zip(&queries.scales).zip(at.scores.chunks_exact_mut(PANEL))
    {
        let mut total = [[simd.splat(0.0); GROUPS]; PANEL];
        let folds = panel.chunks(fold / QUAD).zip(sums.chunks(fold / INT4_CHANNELS));
        let folds = folds.zip(first.chunks(fold / QUAD).zip(second.chunks(fold / QUAD)));
        for (((panel, sums), (first, second)), scales) in folds.zip(scales.chunks_exact(GROUPS)) {
            let mut acc = [[simd.splat_i32(0); GROUPS]; PANEL];
            for slot in 0..PANEL {
                let mut sum = 0;
                for sums in sums {
                    sum += sums[slot];
                }
                acc[slot] = [simd.splat_i32(-bias * sum); GROUPS];
            }
            for ((query, first), second) in panel.iter().zip(first).zip(second) {
                prefetch.ask(simd);
                let keys = [simd.load_bytes(first), simd.load_bytes(second)];
                for slot in 0..PANEL {
                    let query = simd.splat_i32(query[slot]);
                    for group in 0..GROUPS {
                        acc[slot][group] = simd.dot(acc[slot][group], keys[group], query);
                    }
                }
            }
            for group in 0..GROUPS {
                let scale = simd.load_f16(&scales[group]);
                for slot in 0..PANEL {
                    total[slot][group] =
                        simd.mul_add(simd.to_f32(acc[slot][group]), scale, total[slot][group]);
                }
            }
        }
        store_scores(simd, total, query_scales, ScoresAt { scores, group: at.group });
        // Once is enough.
        prefetch.pause();
    }
}

/// A block of values.
#[derive(Clone, Copy)]
pub(super) struct Codes8<'a> {
    /// (head_dim / 16, BLOCK / 4): two's complement; of int4, unsigned and [`INT4_BIAS`] too large.
    pub(super) codes: &'a [Unit],
    /// (BLOCK) f16; of int4, (head_dim / 32, BLOCK), of any sign.
    pub(super) scales: &'a [u8],
}

/// Adds to `sums` (queries, head_dim / 16) the values of `blocks` by their weights.
#[target_feature(
    enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
)]
pub(super) fn weigh(
    simd: Avx512,
    blocks: &[Codes8<'_>],
    int4: bool,
    prefetch: &mut Prefetch,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let vectors = blocks.first().map_or(0, |block| block.codes.len() / TOKEN_QUADS);
    prefetch.spread(blocks.len() * BLOCK, blocks.len() * TOKEN_QUADS * vectors.div_ceil(2));
    // Vectors that share weights: those of a scale group.
    let shared = if int4 { INT4_CHANNELS / LANES } else { vectors };
    for (weights, sums) in at.weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors)) {
        for (scale_group, start) in (0..vectors).step_by(shared).enumerate() {
            let limit = if int4 { 127.0 } else { 255.0 };
            let weights = Weights::new(
                simd,
                blocks.iter().map(|block| block.scales),
                scale_group,
                WeightsAt { weights, group: at.group },
                limit,
            );
            let end = vectors.min(start + shared);
            let mut vector = start;
            while vector < end {
                let sums = PanelSums { sums: &mut *sums, vectors };
                let step = if end - vector >= 2 { 2 } else { 1 };
                match (int4, step) {
                    (false, 2) => add::<2, false>(simd, blocks, prefetch, &weights, sums, vector),
                    (false, _) => add::<1, false>(simd, blocks, prefetch, &weights, sums, vector),
                    (true, 2) => add::<2, true>(simd, blocks, prefetch, &weights, sums, vector),
                    (true, _) => add::<1, true>(simd, blocks, prefetch, &weights, sums, vector),
                }
                vector += step;
            }
        }
        prefetch.pause();
    }
}

/// Adds the values of `VECTORS` times 16 channels from vector `first` on.
#[inline(always)]
fn add<const VECTORS: usize, const INT4: bool>(
    simd: Avx512,
    blocks: &[Codes8<'_>],
    prefetch: &mut Prefetch,
    all_weights: &Weights,
    sums: PanelSums<'_>,
    first: usize,
) {
    let mut acc = [[simd.splat_i32(0); VECTORS]; PANEL];
    if INT4 {
        for (acc, sum) in acc.iter_mut().zip(all_weights.sums) {
            // Weights that are not numbers have any sum; what comes out is not a number anyway.
            let bias = sum.wrapping_mul(-i32::from(INT4_BIAS));
            *acc = [simd.splat_i32(bias); VECTORS];
        }
    }
    for (block, weights) in blocks.iter().zip(&all_weights.quads) {
        let codes = &block.codes.as_chunks::<TOKEN_QUADS>().0[first..first + VECTORS];
        for (quad, weights) in weights.iter().enumerate() {
            prefetch.ask(simd);
            let mut values = [simd.splat_i32(0); VECTORS];
            for (values, codes) in values.iter_mut().zip(codes) {
                *values = simd.load_bytes(&codes[quad]);
            }
            for slot in 0..PANEL {
                let weight = simd.splat_i32(weights[slot]);
                for vector in 0..VECTORS {
                    acc[slot][vector] = if INT4 {
                        simd.dot(acc[slot][vector], values[vector], weight)
                    } else {
                        simd.dot(acc[slot][vector], weight, values[vector])
                    };
                }
            }
        }
    }
    all_weights.add_to(simd, &acc, sums, first);
}
