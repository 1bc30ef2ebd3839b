//! Where the codes of rows of 2 to 6 bits lie in a block ([`super::planes`] has the words).

use super::lanes::{CHANNELS, QUAD, Unit};
use super::widths::{Plane, Section, Widths};
use super::{BLOCK, F16_BYTES, GROUP, Side};

/// Tokens of a block in fours.
const TOKEN_QUADS: usize = BLOCK / QUAD;

/// Bytes of a block.
pub(super) fn block_bytes(side: Side, widths: &Widths) -> usize {
    sections(side, widths).map(|section| section.bytes()).sum::<usize>() + BLOCK * F16_BYTES
}

/// Where the codes of a section lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) section: Section,
    pub(super) side: Side,
    /// The first byte of its planes.
    pub(crate) start: usize,
}

/// The sections of a block.
#[inline(always)]
pub(crate) fn sections(side: Side, widths: &Widths) -> impl Iterator<Item = Stored> + use<> {
    let mut start = 0;
    widths.sections().map(move |section| {
        let stored = Stored { section, side, start };
        start += stored.bytes();
        stored
    })
}

impl Stored {
    /// Units of codes.
    #[inline(always)]
    pub(crate) fn units(&self) -> usize {
        match self.side {
            Side::Keys => self.section.quads() * (BLOCK / GROUP),
            Side::Values => self.section.channels.div_ceil(CHANNELS) * TOKEN_QUADS,
        }
    }

    /// Codes of a unit.
    #[inline(always)]
    pub(super) fn unit_len(&self, unit: usize) -> usize {
        match self.side {
            Side::Keys => size_of::<Unit>(),
            Side::Values => {
                let first = unit / TOKEN_QUADS * CHANNELS;
                CHANNELS.min(self.section.channels - first) * QUAD
            }
        }
    }

    /// Bytes of a plane.
    #[inline(always)]
    pub(crate) fn plane_bytes(&self, plane: Plane) -> usize {
        let together = usize::from(8 / plane.bits);
        match self.side {
            Side::Keys => self.units().div_ceil(together) * size_of::<Unit>(),
            Side::Values => self.section.channels * BLOCK / together,
        }
    }

    /// Bytes of all planes.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        self.section.planes().iter().map(|plane| self.plane_bytes(*plane)).sum()
    }

    /// (token, channel) of an element of a unit.
    pub(super) fn place(&self, unit: usize, element: usize) -> (usize, usize) {
        let (lane, term) = (element / QUAD, element % QUAD);
        match self.side {
            Side::Keys => {
                let (quad, group) = (unit / (BLOCK / GROUP), unit % (BLOCK / GROUP));
                (group * GROUP + lane, self.section.first + quad * QUAD + term)
            }
            Side::Values => (unit % TOKEN_QUADS * QUAD + term, unit / TOKEN_QUADS * CHANNELS + lane),
        }
    }

    /// Where the units of a plane that begins at `start` lie: for `unit`, the stored bytes and the lowest of its bits there.
    pub(super) fn in_plane(&self, plane: Plane, start: usize, unit: usize) -> (std::ops::Range<usize>, u8) {
        let together = usize::from(8 / plane.bits);
        // Before the last units of a row of values, which may be shorter, all are whole.
        let first = start + unit / together * size_of::<Unit>();
        let first = match self.side {
            Side::Keys => first,
            Side::Values => {
                start
                    + unit / TOKEN_QUADS * (CHANNELS * BLOCK / together)
                    + unit % TOKEN_QUADS / together * self.unit_len(unit)
            }
        };
        (first..first + self.unit_len(unit), plane.bits * (unit % together) as u8)
    }
}
