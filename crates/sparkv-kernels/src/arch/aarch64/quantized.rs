//! Which way each quantized layout goes, where there are integer dot products.

use super::codes::{self, Codes8};
use super::expand;
use super::neon::Neon;
use crate::block::KEY_BIAS;
use crate::expand::{Unit, packed_codes};
use crate::layout::{BLOCK, Format, INT4_CHANNELS, Layout};
use crate::rows::{Rows, Upcoming};
use crate::score::{BlockScores, Codes, Expanded, KEY_BLOCK};
use crate::select::KeptFormat;
use crate::simd::LANES;

/// Scores a block of keys as integers; `false` if it is none.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn score_codes(
    simd: Neon<true>,
    layout: &Layout,
    block: &[u8],
    queries: &Codes,
    (expanded, upcoming): (&mut Expanded, &mut Upcoming),
    scores: (&mut [BlockScores], usize),
) -> bool {
    let Some((keys, biased)) = codes_of(simd, layout, block, expanded.codes.as_mut_slice()) else {
        return false;
    };
    let fold = if layout.format() == Format::Int4 { INT4_CHANNELS } else { usize::MAX };
    let flip = if biased { KEY_BIAS } else { 0 };
    codes::score(simd, (keys, flip, fold), (queries, upcoming), scores);
    true
}

/// Adds weighted blocks of values as integers; `false` if they are none, or their rows do not fill vectors.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn weigh_codes(
    simd: Neon<true>,
    values: &Rows<'_>,
    weights: (&[BlockScores], usize),
    (expanded, upcoming): (&mut Expanded, &mut Upcoming),
    sums: &mut [[f32; LANES]],
) -> bool {
    let layout = values.layout();
    if !layout.head_dim().is_multiple_of(LANES) {
        return false;
    }
    let units = BLOCK * layout.head_dim() / size_of::<Unit>();
    let room = expanded.codes.as_mut_slice().chunks_exact_mut(units);
    let mut blocks = [Codes8 { codes: &[], scales: &[] }; KEY_BLOCK / BLOCK];
    for ((slot, block), room) in blocks.iter_mut().zip(values.units()).zip(room) {
        let Some((codes, _)) = codes_of(simd, layout, block, room) else { return false };
        *slot = codes;
    }
    let blocks = &blocks[..values.units().len()];
    codes::weigh(simd, (blocks, layout.format() == Format::Int4), upcoming, weights, sums);
    true
}

/// The codes of a block, in `room` if they must be spread out, and whether those of keys still have their bias;
/// `None` if it has none, or its rows do not fill vectors.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn codes_of<'a>(
    simd: Neon<true>,
    layout: &Layout,
    block: &'a [u8],
    room: &'a mut [Unit],
) -> Option<(Codes8<'a>, bool)> {
    let head_dim = layout.head_dim();
    let room = &mut room[..BLOCK * head_dim / size_of::<Unit>()];
    match layout.format() {
        Format::Int8 => {
            let (codes, scales) = block.split_at(BLOCK * head_dim);
            Some((Codes8 { codes: codes.as_chunks().0, scales }, true))
        }
        Format::Int4 => {
            let (nibbles, scales) = block.split_at(BLOCK / 2 * head_dim);
            expand::nibbles(nibbles, room);
            Some((Codes8 { codes: room, scales }, false))
        }
        Format::Packed(packing) if packing.values == KeptFormat::Int8 && head_dim.is_multiple_of(LANES) => {
            let sections = packing.sections(head_dim);
            packed_codes(simd, layout, &packing, block, room);
            let scales = &block[sections.scalars..sections.steps];
            Some((Codes8 { codes: room, scales }, false))
        }
        _ => None,
    }
}
