//! Attention over blocks whose elements are bytes, as integers.

use super::weights::{PanelSums, Weights, store_scores};
use super::{GROUPS, TOKEN_QUADS};
use crate::attention::prefetch::Prefetch;
use crate::attention::queries::{QueryCodes, odd_offsets};
use crate::attention::{PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::Unit;
use crate::format::{BLOCK, F16_BYTES, Widths};
use crate::simd::LANES;
use crate::simd::integers::Integers;

/// What codes stand for.
#[derive(Clone, Copy)]
pub(super) enum Elements {
    /// Numbers of 8 bits with a sign; of keys, plus 128.
    Signed,
    /// The odd numbers 2 u + 1 - 2^b.
    Odd(Widths),
}

/// A block.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    /// Keys (2 groups, channels / 4), values (head_dim / 16, BLOCK / 4).
    pub(super) units: &'a [Unit],
    /// (BLOCK) f16.
    pub(super) scales: &'a [u8],
    pub(super) elements: Elements,
}

impl Codes<'_> {
    /// None at all.
    pub(super) const NONE: Self = Self { units: &[], scales: &[], elements: Elements::Signed };
}

/// Scores of a block of keys for all queries.
#[inline(always)] // into functions that are compiled for the instructions
pub(super) fn score<S: Integers>(
    simd: S,
    keys: Codes<'_>,
    queries: &QueryCodes,
    prefetch: &mut Prefetch,
    at: ScoresAt<'_>,
) {
    let (quads, elements) = (keys.units.len() / GROUPS, keys.elements);
    let (first, second) = keys.units.split_at(quads);
    prefetch.spread(BLOCK, if S::SUMS_OF_ONE_GROUP { GROUPS * quads } else { quads });
    for (panel, scores) in queries.panels().zip(at.scores.chunks_exact_mut(PANEL)) {
        let rows = &panel.quads[..quads];
        let products = if S::SUMS_OF_ONE_GROUP {
            let [first] = products::<S, 1>(simd, [first], elements, rows, prefetch);
            let [second] = products::<S, 1>(simd, [second], elements, rows, prefetch);
            [first, second]
        } else {
            products::<S, GROUPS>(simd, [first, second], elements, rows, prefetch)
        };
        let products = Products { products, elements, scales: keys.scales };
        products.store(simd, panel.sums, panel.scales, ScoresAt { scores, group: at.group });
        // Once is enough.
        prefetch.pause();
    }
}

/// Products of the rows of a panel with groups of keys.
#[inline(always)]
fn products<S: Integers, const N: usize>(
    simd: S,
    groups: [&[Unit]; N],
    elements: Elements,
    rows: &[[i32; PANEL]],
    prefetch: &mut Prefetch,
) -> [[S::I; PANEL]; N] {
    let mut asking = *prefetch;
    let mut acc = [[simd.splat_i32(0); PANEL]; N];
    let groups = groups.map(|group| &group[..rows.len()]);
    match elements {
        Elements::Signed => {
            for (quad, row) in rows.iter().enumerate() {
                asking.ask(simd);
                for (acc, group) in acc.iter_mut().zip(&groups) {
                    simd.dot_keys(acc, simd.load_bytes(&group[quad]), row);
                }
            }
        }
        Elements::Odd(_) => {
            for (quad, row) in rows.iter().enumerate() {
                asking.ask(simd);
                for (acc, group) in acc.iter_mut().zip(&groups) {
                    simd.dot_codes(acc, simd.load_bytes(&group[quad]), row);
                }
            }
        }
    }
    *prefetch = asking;
    acc
}

/// Products of a panel with a block of keys.
pub(super) struct Products<'a, S: Integers> {
    pub(super) products: [[S::I; PANEL]; GROUPS],
    pub(super) elements: Elements,
    /// (BLOCK) f16.
    pub(super) scales: &'a [u8],
}

impl<S: Integers> Products<'_, S> {
    /// Makes scores of them. `sums` of the codes of the panel's queries by sets; `query_scales` of the queries.
    #[inline(always)]
    pub(super) fn store(self, simd: S, sums: &[[i32; PANEL]], query_scales: &[f32; PANEL], at: ScoresAt<'_>) {
        let offsets = match self.elements {
            Elements::Odd(widths) => odd_offsets(sums, &widths),
            Elements::Signed => {
                let mut offsets = [0; PANEL];
                for sums in sums {
                    offsets.iter_mut().zip(sums).for_each(|(offset, sum)| *offset -= S::KEY_BIAS * sum);
                }
                offsets
            }
        };
        let scales = self.scales.as_chunks::<{ F16_BYTES * LANES }>().0;
        let mut totals = [[simd.splat(0.0); GROUPS]; PANEL];
        for (group, products) in self.products.into_iter().enumerate() {
            let scale = simd.load_f16(&scales[group]);
            for (slot, product) in products.into_iter().enumerate() {
                let product = match self.elements {
                    Elements::Odd(_) => simd.add_i32(product, product),
                    Elements::Signed => product,
                };
                let product = simd.add_i32(product, simd.splat_i32(offsets[slot]));
                totals[slot][group] = simd.mul(simd.to_f32(product), scale);
            }
        }
        store_scores(simd, totals, query_scales, at);
    }
}

/// Adds to `sums` (queries, head_dim / 16) the values of `blocks` by their weights.
#[inline(always)]
pub(super) fn weigh<S: Integers>(
    simd: S,
    blocks: &[Codes<'_>],
    prefetch: &mut Prefetch,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let Some(first) = blocks.first() else { return };
    let (vectors, elements) = (first.units.len() / TOKEN_QUADS, first.elements);
    let together = if S::MANY_REGISTERS { 2 } else { 1 };
    prefetch.spread(blocks.len() * BLOCK, blocks.len() * TOKEN_QUADS * vectors.div_ceil(together));
    for (weights, sums) in at.weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors)) {
        let at = WeightsAt { weights, group: at.group };
        let weights = Weights::new(simd, blocks.iter().map(|block| block.scales), limit::<S>(elements), at);
        let mut first = 0;
        while first < vectors {
            let sums = PanelSums { sums: &mut *sums, vectors, first };
            if together == 2 && first + 2 <= vectors {
                add::<S, 2>(simd, blocks, elements, prefetch, &weights, sums);
                first += 2;
            } else {
                add::<S, 1>(simd, blocks, elements, prefetch, &weights, sums);
                first += 1;
            }
        }
        prefetch.pause();
    }
}

/// The largest weight that products with these elements take.
pub(super) fn limit<S: Integers>(elements: Elements) -> f32 {
    match elements {
        Elements::Signed => S::LARGEST_WEIGHT,
        Elements::Odd(_) => 127.0,
    }
}

/// Adds the values of `N` times 16 channels.
#[inline(always)]
fn add<S: Integers, const N: usize>(
    simd: S,
    blocks: &[Codes<'_>],
    elements: Elements,
    prefetch: &mut Prefetch,
    weights: &Weights,
    sums: PanelSums<'_>,
) {
    let mut asking = *prefetch;
    let mut acc = [[simd.splat_i32(0); PANEL]; N];
    let odd = match elements {
        Elements::Signed => None,
        Elements::Odd(widths) => widths.sections().next().map(|section| section.largest()),
    };
    for (block, quads) in blocks.iter().zip(&weights.quads) {
        let units = &block.units.as_chunks::<TOKEN_QUADS>().0[sums.first..sums.first + N];
        for (quad, row) in quads.iter().enumerate() {
            asking.ask(simd);
            for (acc, units) in acc.iter_mut().zip(units) {
                let values = simd.load_bytes(&units[quad]);
                if odd.is_some() {
                    simd.dot_codes(acc, values, row);
                } else {
                    simd.dot_values(acc, values, row);
                }
            }
        }
    }
    *prefetch = asking;
    weights.add_to(simd, &acc, odd, sums);
}
