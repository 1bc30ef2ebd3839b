//! Attention over rows of 8-bit integers.
//!
//! `sdot` adds four products of signed bytes in each of four lanes, `udot` of unsigned ones, and the second
//! operand may be the same four bytes for all lanes: those of one query of a panel.

use std::arch::aarch64::*;
use std::arch::asm;

use super::expand::load_unit;
use crate::attention::prefetch::Prefetch;
use crate::attention::quantized::weights::{PanelSums, Weights, store_scores};
use crate::attention::quantized::{GROUPS, TOKEN_QUADS};
use crate::attention::queries::QueryCodes;
use crate::attention::{PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::{BLOCK, F16_BYTES, INT4_CHANNELS};
use crate::simd::aarch64::Neon;
use crate::simd::integers::Integers;
use crate::simd::{LANES, Simd};

/// Sums of a vector for each query of a panel.
type Sums = [[int32x4_t; 4]; PANEL];

/// A block in bytes.
#[derive(Clone, Copy)]
pub(super) struct Codes8<'a> {
    /// Keys (2 groups, head_dim / 4), values (head_dim / 16, BLOCK / 4).
    pub(super) codes: &'a [Unit],
    /// (head_dim / channels, BLOCK) f16, where so many channels share a scale.
    pub(super) scales: &'a [u8],
}

/// A block of keys.
pub(super) struct KeyCodes<'a> {
    pub(super) keys: Codes8<'a>,
    /// Flipped by this, codes are in two's complement.
    pub(super) flip: u8,
    /// Channels that share a scale.
    pub(super) fold: usize,
}

/// Scores of a block of keys for all queries.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn score(
    simd: Neon<true>,
    keys: &KeyCodes<'_>,
    queries: &QueryCodes,
    prefetch: &mut Prefetch,
    at: ScoresAt<'_>,
) {
    let KeyCodes { keys, flip, fold } = *keys;
    let quads = keys.codes.len() / GROUPS;
    prefetch.spread(BLOCK, keys.codes.len());
    let flip = vdupq_n_u8(flip);
    let scales = keys.scales.as_chunks::<{ F16_BYTES * LANES }>().0;
    let panels = queries.quads.chunks_exact(quads).zip(&queries.scales);
    for ((panel, query_scales), scores) in panels.zip(at.scores.chunks_exact_mut(PANEL)) {
        for (index, codes) in keys.codes.chunks_exact(quads).enumerate() {
            let mut totals = [[simd.splat(0.0)]; PANEL];
            let folds = panel.chunks(fold / QUAD).zip(codes.chunks(fold / QUAD));
            for ((panel, codes), scales) in folds.zip(scales.chunks_exact(GROUPS)) {
                let mut acc = [simd.splat_i32(0); PANEL];
                for (query, codes) in panel.iter().zip(codes) {
                    prefetch.ask(simd);
                    multiply::<true>(&mut acc, codes, flip, query);
                }
                let scale = simd.load_f16(&scales[index]);
                for (acc, [total]) in acc.into_iter().zip(&mut totals) {
                    *total = simd.mul_add(simd.to_f32(acc), scale, *total);
                }
            }
            let at = ScoresAt { scores: &mut *scores, group: at.group + index };
            store_scores(simd, totals, query_scales, at);
        }
        // Once is enough.
        prefetch.pause();
    }
}

/// Adds to `sums` (queries, head_dim / 16) the values of `blocks`, in two's complement, by their weights.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn weigh(
    simd: Neon<true>,
    blocks: &[Codes8<'_>],
    int4: bool,
    prefetch: &mut Prefetch,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let vectors = blocks.first().map_or(0, |block| block.codes.len() / TOKEN_QUADS);
    prefetch.spread(blocks.len() * BLOCK, blocks.len() * TOKEN_QUADS * vectors);
    // Vectors that share weights: those of a scale group.
    let shared = if int4 { INT4_CHANNELS / LANES } else { vectors };
    for (weights, sums) in at.weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors)) {
        for (scale_group, start) in (0..vectors).step_by(shared).enumerate() {
            let limit = if int4 { 127.0 } else { 255.0 };
            let scales = blocks.iter().map(|block| block.scales);
            let at = WeightsAt { weights, group: at.group };
            let weights = Weights::new(simd, scales, scale_group, at, limit);
            for vector in start..vectors.min(start + shared) {
                let acc = if int4 {
                    products::<true>(simd, blocks, vector, prefetch, &weights)
                } else {
                    products::<false>(simd, blocks, vector, prefetch, &weights)
                };
                let sums = PanelSums { sums: &mut *sums, vectors };
                weights.add_to(simd, acc.as_chunks::<1>().0, sums, vector);
            }
        }
        prefetch.pause();
    }
}

/// The values of 16 channels times their weights, which are signed or not.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn products<const SIGNED: bool>(
    simd: Neon<true>,
    blocks: &[Codes8<'_>],
    vector: usize,
    prefetch: &mut Prefetch,
    weights: &Weights,
) -> Sums {
    // Values by unsigned weights must be unsigned, too: they are made so by adding 128.
    let flip = vdupq_n_u8(if SIGNED { 0 } else { 128 });
    let mut acc = [simd.splat_i32(0); PANEL];
    if !SIGNED {
        for (acc, sum) in acc.iter_mut().zip(weights.sums) {
            // Weights that are not numbers have any sum; what comes out is not a number anyway.
            *acc = simd.splat_i32(sum.wrapping_mul(-128));
        }
    }
    for (block, weights) in blocks.iter().zip(&weights.quads) {
        let codes = &block.codes[vector * TOKEN_QUADS..][..TOKEN_QUADS];
        for (codes, weights) in codes.iter().zip(weights) {
            prefetch.ask(simd);
            multiply::<SIGNED>(&mut acc, codes, flip, weights);
        }
    }
    acc
}

/// Adds the products of the bytes of each lane with the four bytes of each query of a panel.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply<const SIGNED: bool>(acc: &mut Sums, codes: &Unit, flip: uint8x16_t, panel: &[i32; PANEL]) {
    // SAFETY: the array is as long as a register.
    let panel = vreinterpretq_u8_s32(unsafe { vld1q_s32(panel.as_ptr()) });
    let [a, b, c, d] = acc;
    for (part, codes) in load_unit(codes).into_iter().enumerate() {
        let codes = veorq_u8(codes, flip);
        a[part] = dot::<SIGNED, 0>(a[part], codes, panel);
        b[part] = dot::<SIGNED, 1>(b[part], codes, panel);
        c[part] = dot::<SIGNED, 2>(c[part], codes, panel);
        d[part] = dot::<SIGNED, 3>(d[part], codes, panel);
    }
}

/// Adds to `sums`, in each lane, the products of four bytes with those of query `SLOT` of a panel. (Compilers have
/// no stable function for that yet.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const SIGNED: bool, const SLOT: usize>(
    mut sums: int32x4_t,
    bytes: uint8x16_t,
    panel: uint8x16_t,
) -> int32x4_t {
    // SAFETY: the processor has the instructions, which do nothing but write this register.
    unsafe {
        if SIGNED {
            asm!(
                "sdot {sums:v}.4s, {bytes:v}.16b, {panel:v}.4b[{slot}]",
                sums = inlateout(vreg) sums,
                bytes = in(vreg) bytes,
                panel = in(vreg) panel,
                slot = const SLOT,
                options(pure, nomem, nostack, preserves_flags),
            );
        } else {
            asm!(
                "udot {sums:v}.4s, {bytes:v}.16b, {panel:v}.4b[{slot}]",
                sums = inlateout(vreg) sums,
                bytes = in(vreg) bytes,
                panel = in(vreg) panel,
                slot = const SLOT,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sums
}
