//! Packed blocks, read a unit after the other.

use super::{Masks, Place, TOKEN_QUADS, Unit, flip};
use crate::lanes::{QUAD, Shape};
use crate::layout::{BLOCK, GROUP, Sections, Side};
use crate::simd::{LANES, Simd};

/// The codes of a packed block of int8 values.
pub(super) struct PackedCodes<'a> {
    side: Side,
    /// Of each group of keys, or of each quad of tokens of values.
    magnitudes: [[Unit; 2]; TOKEN_QUADS],
    masks: MaskWords<'a>,
    kept: Kept<'a>,
}

impl<'a> PackedCodes<'a> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, sections: &Sections, bytes: &'a [u8]) -> Self {
        Self {
            side: shape.side,
            magnitudes: magnitudes(shape.side, &bytes[sections.steps..sections.end]),
            masks: MaskWords::new(shape, sections, bytes),
            kept: Kept::new(bytes, sections.bitmap, flip(shape.side)),
        }
    }

    /// Codes of the unit at `place`, which follows the last one, in two's complement.
    #[inline(always)]
    pub(super) fn next<S: Simd>(&mut self, simd: S, place: Place, codes: &mut Unit) {
        let masks = self.masks.get(place.unit);
        let magnitudes = match self.side {
            Side::Keys => &self.magnitudes[place.outer],
            Side::Values => &self.magnitudes[place.quad],
        };
        let values = self.kept.next(masks.kept.count_ones() as usize);
        simd.spread_codes(masks, magnitudes, (values, flip(self.side)), codes);
    }
}

/// The magnitudes of pruned elements, the lower and the higher one, as codes of units: of each group of keys,
/// or of each quad of tokens of values.
#[inline(always)]
fn magnitudes(side: Side, steps: &[u8]) -> [[Unit; 2]; TOKEN_QUADS] {
    let mut units = [[[0; QUAD * LANES]; 2]; TOKEN_QUADS];
    for (level, steps) in steps.chunks_exact(BLOCK).enumerate() {
        match side {
            Side::Keys => {
                for (unit, steps) in units.iter_mut().zip(steps.as_chunks::<GROUP>().0) {
                    for (lane, steps) in unit[level].as_chunks_mut::<QUAD>().0.iter_mut().zip(steps) {
                        *lane = [*steps; QUAD];
                    }
                }
            }
            Side::Values => {
                for (unit, steps) in units.iter_mut().zip(steps.as_chunks::<QUAD>().0) {
                    unit[level].as_chunks_mut::<QUAD>().0.fill(*steps);
                }
            }
        }
    }
    units
}

/// The masks of a packed block.
pub(super) struct MaskWords<'a> {
    whole_units: usize,
    /// Kept, negative, high (empty with one level).
    sections: [&'a [u8]; 3],
}

impl<'a> MaskWords<'a> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, sections: &Sections, bytes: &'a [u8]) -> Self {
        let kept = &bytes[sections.bitmap..sections.signs];
        let negative = &bytes[sections.signs..sections.levels];
        // Empty with one level.
        let high = &bytes[sections.levels..sections.scalars];
        Self { whole_units: shape.whole_units(), sections: [kept, negative, high] }
    }

    #[inline(always)]
    pub(super) fn get(&self, unit: usize) -> Masks {
        let [kept, negative, high] = self.sections;
        Masks {
            kept: word(kept, unit, self.whole_units),
            negative: word(negative, unit, self.whole_units),
            high: word(high, unit, self.whole_units),
        }
    }
}

/// The word of `unit`; 0 where there is none.
#[inline(always)]
fn word(bytes: &[u8], unit: usize, whole: usize) -> u64 {
    if unit < whole {
        return bytes.as_chunks().0.get(unit).map_or(0, |word| u64::from_le_bytes(*word));
    }
    let half = bytes.as_chunks().0.get(whole + unit).map_or(0, |word| u32::from_le_bytes(*word));
    u64::from(half)
}

/// The kept values of a packed block, read one after the other.
pub(super) struct Kept<'a> {
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

impl<'a> Kept<'a> {
    #[inline(always)]
    pub(super) fn new(block: &'a [u8], len: usize, zero: u8) -> Self {
        Self { block, len, read: 0, rest: [zero; QUAD * LANES], zero }
    }

    /// The next values, of which `bytes` are done with. More than there are, which only a broken bitmap asks for,
    /// are zeros.
    #[inline(always)]
    pub(super) fn next(&mut self, bytes: usize) -> &Unit {
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
