//! Packed blocks of int8 values, read a unit after the other.

use super::masks::{MaskWords, Masks};
use super::{ReadQuantized, TOKEN_QUADS};
use crate::format::lanes::{QUAD, Shape, Unit};
use crate::format::packing::Sections;
use crate::format::quantized::KEY_BIAS;
use crate::format::{GROUP, Side};
use crate::simd::LANES;

/// Where a unit lies: the group of tokens of keys and the quad of its channels, or the 16 channels of values and
/// the quad of their tokens.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) unit: usize,
    pub(super) outer: usize,
    pub(super) quad: usize,
}

/// The codes of a packed block of int8 values.
pub(super) struct PackedCodes<'a> {
    side: Side,
    /// Of each group of keys, or of each quad of tokens of values.
    magnitudes: [Unit; TOKEN_QUADS],
    masks: MaskWords<'a>,
    kept: KeptValues<'a>,
}

impl<'a> PackedCodes<'a> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, sections: &Sections, bytes: &'a [u8]) -> Self {
        Self {
            side: shape.side,
            magnitudes: magnitudes(shape.side, &bytes[sections.steps..sections.end]),
            masks: MaskWords::new(shape, sections, bytes),
            kept: KeptValues::new(bytes, sections.bitmap, flip(shape.side)),
        }
    }

    /// Codes of the unit at `place`, which follows the last one, in two's complement.
    #[inline(always)]
    pub(super) fn next<S: ReadQuantized>(&mut self, simd: S, place: Place, codes: &mut Unit) {
        let masks = self.masks.get(place.unit);
        let magnitudes = match self.side {
            Side::Keys => &self.magnitudes[place.outer],
            Side::Values => &self.magnitudes[place.quad],
        };
        let values = self.kept.next(masks.kept.count_ones() as usize);
        simd.spread_codes(masks, magnitudes, values, flip(self.side), codes);
    }
}

/// The magnitudes of pruned elements as codes of units: of each group of keys, or of each quad of tokens of values.
#[inline(always)]
fn magnitudes(side: Side, steps: &[u8]) -> [Unit; TOKEN_QUADS] {
    let mut units = [[0; QUAD * LANES]; TOKEN_QUADS];
    match side {
        Side::Keys => {
            for (unit, steps) in units.iter_mut().zip(steps.as_chunks::<GROUP>().0) {
                for (lane, steps) in unit.as_chunks_mut::<QUAD>().0.iter_mut().zip(steps) {
                    *lane = [*steps; QUAD];
                }
            }
        }
        Side::Values => {
            for (unit, steps) in units.iter_mut().zip(steps.as_chunks::<QUAD>().0) {
                unit.as_chunks_mut::<QUAD>().0.fill(*steps);
            }
        }
    }
    units
}

/// What takes the bias from codes.
#[inline(always)]
pub(super) fn flip(side: Side) -> u8 {
    match side {
        Side::Keys => KEY_BIAS,
        Side::Values => 0,
    }
}

/// The kept values of a packed block, read one after the other.
struct KeptValues<'a> {
    block: &'a [u8],
    /// Bytes of kept values, with which the block begins.
    len: usize,
    /// Bytes read so far.
    read: usize,
    /// The last values, filled up with `zero`.
    rest: Unit,
    /// The byte that stands for a zero.
    zero: u8,
}

impl<'a> KeptValues<'a> {
    #[inline(always)]
    fn new(block: &'a [u8], len: usize, zero: u8) -> Self {
        Self { block, len, read: 0, rest: [zero; QUAD * LANES], zero }
    }

    /// The next values, of which `bytes` are done with. More than there are, which only a broken bitmap asks for,
    /// are zeros.
    #[inline(always)]
    fn next(&mut self, bytes: usize) -> &Unit {
        let start = self.read;
        self.read += bytes;
        // Behind the values there are masks of no less than 64 bytes, which will not be looked at.
        if self.read <= self.len
            && let Some(values) = self.block[start..].first_chunk()
        {
            return values;
        }
        self.pad(start)
    }

    #[cold]
    fn pad(&mut self, start: usize) -> &Unit {
        self.rest.fill(self.zero);
        let left = self.block[..self.len].get(start..).unwrap_or(&[]);
        self.rest.iter_mut().zip(left).for_each(|(to, byte)| *to = *byte);
        &self.rest
    }
}

/// Eight bytes that are all ones where a bit is set.
static BYTE_MASKS: [[u8; 8]; 256] = {
    let mut masks = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            masks[byte][bit] = if byte >> bit & 1 == 1 { 255 } else { 0 };
            bit += 1;
        }
        byte += 1;
    }
    masks
};

/// [`ReadQuantized::spread_codes`] in plain Rust.
#[inline(always)]
pub(super) fn spread_codes(masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
    let mut negative = [0u8; QUAD * LANES];
    for (to, byte) in negative.as_chunks_mut().0.iter_mut().zip(masks.negative.to_le_bytes()) {
        *to = BYTE_MASKS[usize::from(byte)];
    }
    for element in 0..codes.len() {
        // Two's complement.
        codes[element] = (magnitudes[element] ^ negative[element]).wrapping_sub(negative[element]);
    }
    let mut rest = masks.kept;
    for value in values {
        if rest == 0 {
            break;
        }
        codes[rest.trailing_zeros() as usize] = value ^ flip;
        rest &= rest - 1;
    }
}
