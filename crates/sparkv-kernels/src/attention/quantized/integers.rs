//! Quantized blocks multiplied as integers: which way each layout goes.

use super::codes::{self, Codes, Elements};
use super::expand::packed_codes;
use super::planes::KeyPlanes;
use super::{ReadQuantized, Reading, planes};
use crate::attention::queries::QueryCodes;
use crate::attention::{KEY_BLOCK, ScoresAt, WeightsAt};
use crate::format::lanes::Unit;
use crate::format::{BLOCK, Format, KeptFormat, Layout, Rows};
use crate::simd::integers::Integers;
use crate::simd::{LANES, Task};

/// Scores a block of keys; gives `false` if it has no codes, or its rows do not fill vectors.
pub(super) struct Score<'a> {
    pub(super) layout: &'a Layout,
    pub(super) block: &'a [u8],
    pub(super) queries: &'a QueryCodes,
    pub(super) reading: Reading<'a>,
    pub(super) at: ScoresAt<'a>,
}

impl<S: ReadQuantized + Integers> Task<S> for Score<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self, simd: S) -> bool {
        let Self { layout, block, queries, reading, at } = self;
        if let Format::Planes(widths) = layout.format() {
            planes::score(simd, &KeyPlanes { widths, block }, queries, reading, at);
            return true;
        }
        let Some(keys) = codes_of(simd, layout, block, reading.expanded.codes.as_mut_slice()) else {
            return false;
        };
        codes::score(simd, keys, queries, reading.prefetch, at);
        true
    }
}

/// Adds weighted blocks of values; gives `false` if they have no codes, or their rows do not fill vectors.
pub(super) struct Weigh<'a> {
    pub(super) values: &'a Rows<'a>,
    pub(super) at: WeightsAt<'a>,
    pub(super) reading: Reading<'a>,
    pub(super) sums: &'a mut [[f32; LANES]],
}

impl<S: ReadQuantized + Integers> Task<S> for Weigh<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self, simd: S) -> bool {
        let Self { values, at, reading, sums } = self;
        let layout = values.layout();
        if !layout.head_dim().is_multiple_of(LANES) {
            return false;
        }
        if let Format::Planes(widths) = layout.format() {
            planes::weigh(simd, values, &widths, reading, at, sums);
            return true;
        }
        let units = BLOCK * layout.head_dim() / size_of::<Unit>();
        let room = reading.expanded.codes.as_mut_slice().chunks_exact_mut(units);
        let mut blocks = [Codes::NONE; KEY_BLOCK / BLOCK];
        for ((slot, block), room) in blocks.iter_mut().zip(values.units()).zip(room) {
            let Some(codes) = codes_of(simd, layout, block, room) else { return false };
            *slot = codes;
        }
        codes::weigh(simd, &blocks[..values.units().len()], reading.prefetch, at, sums);
        true
    }
}

/// The codes of a block of 8 bits, in `room` if they must be spread out; `None` if it has none, or its rows do not fill
/// vectors.
#[inline(always)]
fn codes_of<'a, S: ReadQuantized>(
    simd: S,
    layout: &Layout,
    block: &'a [u8],
    room: &'a mut [Unit],
) -> Option<Codes<'a>> {
    let head_dim = layout.head_dim();
    match layout.format() {
        Format::Int8 => {
            let (codes, scales) = block.split_at(BLOCK * head_dim);
            Some(Codes { units: codes.as_chunks().0, scales, elements: Elements::Signed })
        }
        Format::Packed(packing) if packing.values == KeptFormat::Int8 && head_dim.is_multiple_of(LANES) => {
            let room = &mut room[..BLOCK * head_dim / size_of::<Unit>()];
            let sections = packing.sections(head_dim);
            packed_codes(simd, layout, &packing, block, room);
            let scales = &block[sections.scalars..sections.steps];
            Some(Codes { units: room, scales, elements: Elements::Signed })
        }
        _ => None,
    }
}
