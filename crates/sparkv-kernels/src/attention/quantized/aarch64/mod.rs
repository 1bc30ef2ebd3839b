//! Quantized blocks read on 64-bit Arm: which way each layout goes.

mod codes;
mod expand;

use self::codes::{Codes8, KeyCodes};
use crate::attention::quantized::expand::packed_codes;
use crate::attention::quantized::masks::Masks;
use crate::attention::quantized::{ReadQuantized, Reading};
use crate::attention::queries::QueryCodes;
use crate::attention::{KEY_BLOCK, ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::quantized::KEY_BIAS;
use crate::format::{BLOCK, Format, INT4_CHANNELS, KeptFormat, Layout, Rows};
use crate::simd::LANES;
use crate::simd::aarch64::{Neon, Vector};

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
        // SAFETY: see above.
        unsafe { score_codes(simd, layout, block, queries, reading, at) }
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
        // SAFETY: see above.
        unsafe { weigh_codes(simd, values, at, reading, sums) }
    }
}

/// Scores a block of keys as integers; `false` if it is none.
#[target_feature(enable = "neon,dotprod")]
fn score_codes(
    simd: Neon<true>,
    layout: &Layout,
    block: &[u8],
    queries: &QueryCodes,
    reading: Reading<'_>,
    at: ScoresAt<'_>,
) -> bool {
    let Some((keys, biased)) = codes_of(simd, layout, block, reading.expanded.codes.as_mut_slice()) else {
        return false;
    };
    let fold = if layout.format() == Format::Int4 { INT4_CHANNELS } else { usize::MAX };
    let flip = if biased { KEY_BIAS } else { 0 };
    codes::score(simd, &KeyCodes { keys, flip, fold }, queries, reading.prefetch, at);
    true
}

/// Adds weighted blocks of values as integers; `false` if they are none, or their rows do not fill vectors.
#[target_feature(enable = "neon,dotprod")]
fn weigh_codes(
    simd: Neon<true>,
    values: &Rows<'_>,
    at: WeightsAt<'_>,
    reading: Reading<'_>,
    sums: &mut [[f32; LANES]],
) -> bool {
    let layout = values.layout();
    if !layout.head_dim().is_multiple_of(LANES) {
        return false;
    }
    let units = BLOCK * layout.head_dim() / size_of::<Unit>();
    let room = reading.expanded.codes.as_mut_slice().chunks_exact_mut(units);
    let mut blocks = [Codes8 { codes: &[], scales: &[] }; KEY_BLOCK / BLOCK];
    for ((slot, block), room) in blocks.iter_mut().zip(values.units()).zip(room) {
        let Some((codes, _)) = codes_of(simd, layout, block, room) else { return false };
        *slot = codes;
    }
    let blocks = &blocks[..values.units().len()];
    codes::weigh(simd, blocks, layout.format() == Format::Int4, reading.prefetch, at, sums);
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
