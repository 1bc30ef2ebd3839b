//! The order in which a quantized block holds its elements.
//!
//! Kernels read a block from its first byte to its last, a register at a time, and want every lane of a
//! register to add to a sum of its own: a token per lane for scores, a channel per lane for weighted sums.

use super::{BLOCK, GROUP, Side};

/// Channels of a value block that are laid out together.
pub(crate) const CHANNELS: usize = 16;

/// Elements that a 32-bit lane of an integer dot product adds up.
pub(crate) const QUAD: usize = 4;

/// Codes of 64 elements that follow one another: 16 lanes of four bytes.
pub(crate) type Unit = [u8; QUAD * CHANNELS];

/// (token, channel) of every element of a block of `side`, in the order of storage. Codes of a byte lie in
/// quads (4 channels of a key, 4 tokens of a value), wider ones do not.
///
/// It is much faster to consume from within (`for_each`) than to ask for one element after the other.
#[inline]
pub(crate) fn lane_order(
    side: Side,
    head_dim: usize,
    quads: bool,
) -> impl Iterator<Item = (usize, usize)> + 'static {
    let width = if quads { QUAD } else { 1 };
    order(side, head_dim, width, width).map(move |(lane, term)| place(side, lane, term))
}

/// (lane, term): 16 lanes side by side, and in each `width` terms of its sum together, of every `step`.
#[inline]
fn order(side: Side, head_dim: usize, step: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    let (lanes, together, terms) = match side {
        Side::Keys => (BLOCK, GROUP, head_dim),
        Side::Values => (head_dim, CHANNELS, BLOCK),
    };
    (0..lanes).step_by(together).flat_map(move |first| {
        // Fewer lanes at the end of a row of values.
        let side_by_side = first..lanes.min(first + together);
        (0..terms).step_by(step).flat_map(move |term| {
            side_by_side.clone().flat_map(move |lane| (term..term + width).map(move |term| (lane, term)))
        })
    })
}

/// (token, channel).
#[inline]
fn place(side: Side, lane: usize, term: usize) -> (usize, usize) {
    match side {
        Side::Keys => (lane, term),
        Side::Values => (term, lane),
    }
}

/// The **units** of a block: words of 64 elements that follow one another in lane order, 16 tokens of 4 channels
/// of keys, or 16 channels of 4 tokens of values. Where only 8 channels of values are left, they are of 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) side: Side,
    pub(crate) head_dim: usize,
}

impl Shape {
    /// Units of 64 bits.
    pub(crate) fn whole_units(self) -> usize {
        match self.side {
            Side::Keys => BLOCK * self.head_dim / 64,
            Side::Values => self.head_dim / CHANNELS * (BLOCK / QUAD),
        }
    }

    /// Units of any size.
    pub(crate) fn units(self) -> usize {
        match self.side {
            Side::Keys => self.whole_units(),
            Side::Values => self.head_dim.div_ceil(CHANNELS) * (BLOCK / QUAD),
        }
    }

    /// Writes `units`, which fill `bytes`.
    pub(crate) fn write_units(self, units: &[u64], bytes: &mut [u8]) {
        let (whole, halves) = units.split_at(self.whole_units());
        let (whole_bytes, half_bytes) = bytes.split_at_mut(8 * whole.len());
        for (bytes, unit) in whole_bytes.as_chunks_mut().0.iter_mut().zip(whole) {
            *bytes = unit.to_le_bytes();
        }
        for (bytes, unit) in half_bytes.as_chunks_mut().0.iter_mut().zip(halves) {
            *bytes = (*unit as u32).to_le_bytes();
        }
    }

    /// The bits of a unit.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn bits(self, unit: usize) -> u64 {
        if unit < self.whole_units() { u64::MAX } else { u64::from(u32::MAX) }
    }
}
