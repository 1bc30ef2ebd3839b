//! What integer products need before and after, whatever the instructions.

use super::{GROUPS, TOKEN_QUADS};
use crate::attention::{KEY_BLOCK, PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::QUAD;
use crate::format::{BLOCK, F16_BYTES, GROUP};
use crate::simd::integers::Integers;
use crate::simd::{LANES, Simd};

/// Weights of tokens in whole numbers, for the queries of a panel.
pub(super) struct Weights {
    /// (blocks, BLOCK / 4, PANEL): four bytes each.
    pub(super) quads: [[[i32; PANEL]; TOKEN_QUADS]; KEY_BLOCK / BLOCK],
    pub(super) scales: [f32; PANEL],
    /// Sums of the numbers.
    pub(super) sums: [i32; PANEL],
}

impl Weights {
    /// Adds `products` with the weights, of `N` times 16 channels, to `sums`. Of odd numbers up to
    /// `odd`, those with their codes.
    #[inline(always)]
    pub(super) fn add_to<S: Integers, const N: usize>(
        &self,
        simd: S,
        products: &[[S::I; PANEL]; N],
        odd: Option<i32>,
        sums: PanelSums<'_>,
    ) {
        let PanelSums { sums, vectors, first } = sums;
        for slot in 0..PANEL {
            let scale = simd.splat(self.scales[slot]);
            // Weights that are not numbers have any sum; what comes out is not a number anyway.
            let offset = odd.map(|largest| simd.splat_i32(self.sums[slot].wrapping_mul(-largest)));
            let sums = &mut sums[slot * vectors + first..][..N];
            for (products, sums) in products.iter().zip(sums) {
                let mut product = products[slot];
                if let Some(offset) = offset {
                    product = simd.add_i32(simd.add_i32(product, product), offset);
                }
                simd.store(simd.mul_add(simd.to_f32(product), scale, simd.load(sums)), sums);
            }
        }
    }

    /// Weights times the scales of each block, as integers up to `limit`. `blocks`: the scales of each.
    #[inline(always)]
    pub(super) fn new<'a, S: Integers>(
        simd: S,
        blocks: impl ExactSizeIterator<Item = &'a [u8]>,
        limit: f32,
        at: WeightsAt<'_>,
    ) -> Self {
        let mut all = Self {
            quads: [[[0; PANEL]; TOKEN_QUADS]; KEY_BLOCK / BLOCK],
            scales: [0.0; PANEL],
            sums: [0; PANEL],
        };
        let mut factors = [simd.splat(0.0); KEY_BLOCK / GROUP];
        let groups = blocks.len() * GROUPS;
        for (scales, factors) in blocks.zip(factors.as_chunks_mut::<GROUPS>().0) {
            let scales = scales.as_chunks::<{ F16_BYTES * LANES }>().0;
            *factors = [simd.load_f16(&scales[0]), simd.load_f16(&scales[1])];
        }
        for (slot, weights) in at.weights.iter().enumerate() {
            let mut products = factors;
            let mut largest = simd.splat(0.0);
            for (product, weights) in products[..groups].iter_mut().zip(&weights[at.group..]) {
                *product = simd.mul(*product, simd.load(weights));
                largest = simd.max(largest, simd.abs(*product));
            }
            let largest = simd.max_lanes(largest);
            let inverse = simd.splat(if largest > 0.0 { limit / largest } else { 0.0 });
            all.scales[slot] = largest / limit;
            let mut sum = simd.splat_i32(0);
            for (index, product) in products[..groups].iter().enumerate() {
                let numbers = simd.to_i32(simd.mul(*product, inverse));
                sum = simd.add_i32(sum, numbers);
                let quads = simd.low_bytes(numbers);
                let to = &mut all.quads[index / GROUPS][index % GROUPS * GROUP / QUAD..];
                to.iter_mut().zip(quads).for_each(|(to, quad)| to[slot] = quad);
            }
            all.sums[slot] = simd.sum_i32(sum);
        }
        all
    }
}

/// Sums of values for the queries of a panel.
pub(super) struct PanelSums<'a> {
    /// (PANEL, vectors)
    pub(super) sums: &'a mut [[f32; LANES]],
    pub(super) vectors: usize,
    /// The first vector that is added to.
    pub(super) first: usize,
}

/// Writes a panel's scores for `N` groups of keys: `totals` times the scales of the queries.
#[inline(always)]
pub(super) fn store_scores<S: Simd, const N: usize>(
    simd: S,
    totals: [[S::F; N]; PANEL],
    query_scales: &[f32; PANEL],
    at: ScoresAt<'_>,
) {
    for ((totals, scores), scale) in totals.into_iter().zip(at.scores).zip(query_scales) {
        let scale = simd.splat(*scale);
        for (total, scores) in totals.into_iter().zip(&mut scores[at.group..]) {
            simd.store(simd.mul(total, scale), scores);
        }
    }
}
