//! Attention over blocks of fewer than 8 bits, as integers.
//!
//! Where there is but one panel of queries, codes are put together in registers, from the planes that hold their bits, and
//! multiplied there. For more, they are written to a buffer first, a byte each, and multiplied as bytes are.

use super::codes::{self, Codes, Elements, Products};
use super::weights::{PanelSums, Weights};
use super::{GROUPS, Reading, TOKEN_QUADS};
use crate::attention::prefetch::Prefetch;
use crate::attention::queries::{PanelCodes, QueryCodes};
use crate::attention::{KEY_BLOCK, PANEL, ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::sections::{Stored, sections};
use crate::format::{BLOCK, F16_BYTES, Rows, Side, Widths};
use crate::simd::LANES;
use crate::simd::integers::Integers;

/// The planes of a section.
#[derive(Clone, Copy)]
struct Planes<'a> {
    /// 4 bits of each code.
    fours: &'a [Unit],
    /// 2 bits.
    twos: &'a [Unit],
    /// 1 bit.
    ones: &'a [Unit],
}

impl<'a> Planes<'a> {
    #[inline(always)]
    fn new(stored: &Stored, block: &'a [u8]) -> Self {
        let mut planes = Self { fours: &[], twos: &[], ones: &[] };
        let mut start = stored.start;
        for &plane in stored.section.planes() {
            let units = block[start..start + stored.plane_bytes(plane)].as_chunks().0;
            match plane.bits {
                4 => planes.fours = units,
                2 => planes.twos = units,
                _ => planes.ones = units,
            }
            start += stored.plane_bytes(plane);
        }
        planes
    }

    /// The codes of a unit, of `BITS` bits.
    #[inline(always)]
    fn codes<S: Integers, const BITS: u8>(&self, simd: S, unit: usize) -> S::B {
        match BITS {
            6 => simd.or(self.fours(simd, unit), self.twos(simd, unit, 4)),
            5 => simd.or(self.fours(simd, unit), self.ones(simd, unit, 4)),
            4 => self.fours(simd, unit),
            3 => simd.or(self.twos(simd, unit, 0), self.ones(simd, unit, 2)),
            _ => self.twos(simd, unit, 0),
        }
    }

    /// The lowest 4 bits of the codes of a unit.
    #[inline(always)]
    fn fours<S: Integers>(&self, simd: S, unit: usize) -> S::B {
        simd.bits(simd.load_bytes(&self.fours[unit / 2]), 4 * (unit % 2) as i32, 15)
    }

    /// The 2 bits from `lowest` on.
    #[inline(always)]
    fn twos<S: Integers>(&self, simd: S, unit: usize, lowest: i32) -> S::B {
        simd.bits(simd.load_bytes(&self.twos[unit / 4]), 2 * (unit % 4) as i32 - lowest, 3 << lowest)
    }

    /// The bit `lowest`.
    #[inline(always)]
    fn ones<S: Integers>(&self, simd: S, unit: usize, lowest: i32) -> S::B {
        simd.bits(simd.load_bytes(&self.ones[unit / 8]), (unit % 8) as i32 - lowest, 1 << lowest)
    }
}

/// Units after which stored units of all planes of codes of so many bits begin anew.
const fn units_of_step(bits: u8) -> usize {
    match bits {
        3 | 5 => 8,
        2 | 6 => 4,
        _ => 2,
    }
}

/// Writes all codes of a section, a byte each, to where `place` has each unit.
#[inline(always)]
fn spread<S: Integers>(
    simd: S,
    stored: &Stored,
    block: &[u8],
    to: &mut [Unit],
    place: impl Fn(usize) -> usize,
) {
    let planes = Planes::new(stored, block);
    for unit in 0..stored.units() {
        let codes = match stored.section.bits {
            6 => planes.codes::<S, 6>(simd, unit),
            5 => planes.codes::<S, 5>(simd, unit),
            4 => planes.codes::<S, 4>(simd, unit),
            3 => planes.codes::<S, 3>(simd, unit),
            _ => planes.codes::<S, 2>(simd, unit),
        };
        if let Some(to) = to.get_mut(place(unit)) {
            simd.store_bytes(codes, to);
        }
    }
}

/// The scales of a block, with which it ends.
fn scales(block: &[u8]) -> &[u8] {
    &block[block.len() - BLOCK * F16_BYTES..]
}

/// A block of keys.
pub(super) struct KeyPlanes<'a> {
    pub(super) widths: Widths,
    pub(super) block: &'a [u8],
}

/// Scores a block of keys for all queries.
#[inline(always)] // into functions that are compiled for the instructions
pub(super) fn score<S: Integers>(
    simd: S,
    keys: &KeyPlanes<'_>,
    queries: &QueryCodes,
    reading: Reading<'_>,
    at: ScoresAt<'_>,
) {
    let KeyPlanes { widths, block } = *keys;
    let elements = Elements::Odd(widths);
    let mut panels = queries.panels();
    if let (Some(panel), None) = (panels.next(), panels.next())
        && whole_steps(&widths)
    {
        let products = multiply_all(simd, keys, &panel, reading.prefetch);
        let products = Products { products, elements, scales: scales(block) };
        products.store(simd, panel.sums, panel.scales, at);
        return;
    }
    let quads = widths.stored() / QUAD;
    let units = &mut reading.expanded.codes.as_mut_slice()[..GROUPS * quads];
    for stored in sections(Side::Keys, &widths) {
        let first = stored.section.first / QUAD;
        let place = |unit: usize| unit % GROUPS * quads + first + unit / GROUPS;
        spread(simd, &stored, block, units, place);
    }
    codes::score(simd, Codes { units, scales: scales(block), elements }, queries, reading.prefetch, at);
}

/// Whether the last units of planes are whole.
fn whole_steps(widths: &Widths) -> bool {
    widths.sections().all(|section| (GROUPS * section.quads()).is_multiple_of(units_of_step(section.bits)))
}

/// Products of a panel with a block of keys.
#[inline(always)]
fn multiply_all<S: Integers>(
    simd: S,
    keys: &KeyPlanes<'_>,
    panel: &PanelCodes<'_>,
    prefetch: &mut Prefetch,
) -> [[S::I; PANEL]; GROUPS] {
    let mut acc = [[simd.splat_i32(0); PANEL]; GROUPS];
    let quads = keys.widths.stored() / QUAD;
    if S::SUMS_OF_ONE_GROUP {
        prefetch.spread(BLOCK, GROUPS * quads);
        let [first, second] = &mut acc;
        let groups = [std::slice::from_mut(first), std::slice::from_mut(second)];
        for (group, acc) in groups.into_iter().enumerate() {
            if let Some(acc) = acc.first_chunk_mut::<1>() {
                multiply_sections::<S, 1>(simd, keys, panel, group, prefetch, acc);
            }
        }
    } else {
        prefetch.spread(BLOCK, quads);
        multiply_sections::<S, GROUPS>(simd, keys, panel, 0, prefetch, &mut acc);
    }
    acc
}

/// Adds products with `N` groups from `group` on.
#[inline(always)]
fn multiply_sections<S: Integers, const N: usize>(
    simd: S,
    keys: &KeyPlanes<'_>,
    panel: &PanelCodes<'_>,
    group: usize,
    prefetch: &mut Prefetch,
    acc: &mut [[S::I; PANEL]; N],
) {
    for stored in sections(Side::Keys, &keys.widths) {
        let planes = Planes::new(&stored, keys.block);
        let first = stored.section.first / QUAD;
        let rows = &panel.quads[first..first + stored.section.quads()];
        match stored.section.bits {
            6 => multiply::<S, N, 6, 2>(simd, planes, rows, group, prefetch, acc),
            5 => multiply::<S, N, 5, 4>(simd, planes, rows, group, prefetch, acc),
            4 => multiply::<S, N, 4, 1>(simd, planes, rows, group, prefetch, acc),
            3 => multiply::<S, N, 3, 4>(simd, planes, rows, group, prefetch, acc),
            _ => multiply::<S, N, 2, 2>(simd, planes, rows, group, prefetch, acc),
        }
    }
}

/// The same of one section, of codes of `BITS` bits; steps are of `QUADS` quads.
#[inline(always)]
fn multiply<S: Integers, const N: usize, const BITS: u8, const QUADS: usize>(
    simd: S,
    planes: Planes<'_>,
    rows: &[[i32; PANEL]],
    group: usize,
    prefetch: &mut Prefetch,
    acc: &mut [[S::I; PANEL]; N],
) {
    let mut asking = *prefetch;
    let mut sums = *acc;
    for (step, rows) in rows.as_chunks::<QUADS>().0.iter().enumerate() {
        for (quad, row) in rows.iter().enumerate() {
            asking.ask(simd);
            for (offset, sums) in sums.iter_mut().enumerate() {
                let unit = step * GROUPS * QUADS + GROUPS * quad + group + offset;
                let codes = planes.codes::<S, BITS>(simd, unit);
                simd.dot_codes(sums, codes, row);
            }
        }
    }
    *acc = sums;
    *prefetch = asking;
}

/// Adds to `sums` (queries, head_dim / 16) blocks of values, [`KEY_BLOCK`] rows at the most, by their weights.
#[inline(always)]
pub(super) fn weigh<S: Integers>(
    simd: S,
    values: &Rows<'_>,
    widths: &Widths,
    reading: Reading<'_>,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let Some(stored) = sections(Side::Values, widths).next() else { return };
    let (vectors, elements) = (stored.section.channels / LANES, Elements::Odd(*widths));
    let blocks = values.units().len();
    if at.weights.len() > PANEL {
        let mut spread_blocks = [Codes::NONE; KEY_BLOCK / BLOCK];
        let room = reading.expanded.codes.as_mut_slice().chunks_exact_mut(vectors * TOKEN_QUADS);
        for ((to, block), room) in spread_blocks.iter_mut().zip(values.units()).zip(room) {
            spread(simd, &stored, block, room, |unit| unit);
            *to = Codes { units: room, scales: scales(block), elements };
        }
        return codes::weigh(simd, &spread_blocks[..blocks], reading.prefetch, at, sums);
    }
    let weights = Weights::new(simd, values.units().map(scales), codes::limit::<S>(elements), at);
    let sums = PanelSums { sums, vectors, first: 0 };
    match stored.section.bits {
        6 => add::<S, 6>(simd, &stored, values, reading.prefetch, &weights, sums),
        5 => add::<S, 5>(simd, &stored, values, reading.prefetch, &weights, sums),
        4 => add::<S, 4>(simd, &stored, values, reading.prefetch, &weights, sums),
        3 => add::<S, 3>(simd, &stored, values, reading.prefetch, &weights, sums),
        _ => add::<S, 2>(simd, &stored, values, reading.prefetch, &weights, sums),
    }
}

/// Adds values of `BITS` bits.
#[inline(always)]
fn add<S: Integers, const BITS: u8>(
    simd: S,
    stored: &Stored,
    values: &Rows<'_>,
    prefetch: &mut Prefetch,
    weights: &Weights,
    sums: PanelSums<'_>,
) {
    let PanelSums { sums, vectors, .. } = sums;
    let together = if S::MANY_REGISTERS { 2 } else { 1 };
    let blocks = values.units().len();
    prefetch.spread(blocks * BLOCK, blocks * TOKEN_QUADS * vectors.div_ceil(together));
    let mut first = 0;
    while first < vectors {
        let sums = PanelSums { sums: &mut *sums, vectors, first };
        if together == 2 && first + 2 <= vectors {
            add_vectors::<S, BITS, 2>(simd, stored, values, prefetch, weights, sums);
            first += 2;
        } else {
            add_vectors::<S, BITS, 1>(simd, stored, values, prefetch, weights, sums);
            first += 1;
        }
    }
}

/// Adds `N` times 16 channels.
#[inline(always)]
fn add_vectors<S: Integers, const BITS: u8, const N: usize>(
    simd: S,
    stored: &Stored,
    values: &Rows<'_>,
    prefetch: &mut Prefetch,
    weights: &Weights,
    sums: PanelSums<'_>,
) {
    let mut asking = *prefetch;
    let mut acc = [[simd.splat_i32(0); PANEL]; N];
    let steps = TOKEN_QUADS / units_of_step(BITS);
    for (block, quads) in values.units().zip(&weights.quads) {
        let planes = Planes::new(stored, block);
        for step in 0..steps {
            for unit in 0..units_of_step(BITS) {
                asking.ask(simd);
                for (offset, acc) in acc.iter_mut().enumerate() {
                    let quad = step * units_of_step(BITS) + unit;
                    let codes = planes.codes::<S, BITS>(simd, (sums.first + offset) * TOKEN_QUADS + quad);
                    simd.dot_codes(acc, codes, &quads[quad]);
                }
            }
        }
    }
    *prefetch = asking;
    weights.add_to(simd, &acc, Some(stored.section.largest()), sums);
}
