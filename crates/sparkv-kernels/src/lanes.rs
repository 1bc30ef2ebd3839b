//! The order in which a sealed block holds its elements.
//!
//! Kernels read a block from its first byte to its last, a register at a time, and want every lane of a
//! register to add to a sum of its own: a token per lane for scores, a channel per lane for weighted sums.

use crate::layout::{BLOCK, GROUP, Side};

/// Channels of a value block that are laid out together.
pub(crate) const CHANNELS: usize = 16;

/// Elements that a 32-bit lane of an integer dot product adds up.
pub(crate) const QUAD: usize = 4;

/// (token, channel) of every element of a block of `side`, in the order of storage. Codes of a byte lie in
/// quads (4 channels of a key, 4 tokens of a value), wider ones do not.
pub(crate) fn lane_order(
    side: Side,
    head_dim: usize,
    quads: bool,
) -> Box<dyn Iterator<Item = (usize, usize)>> {
    match (side, quads) {
        (Side::Keys, true) => Box::new((0..BLOCK).step_by(GROUP).flat_map(move |first| {
            (0..head_dim).step_by(QUAD).flat_map(move |quad| {
                (first..first + GROUP).flat_map(move |token| (quad..quad + QUAD).map(move |c| (token, c)))
            })
        })),
        (Side::Keys, false) => Box::new((0..BLOCK).step_by(GROUP).flat_map(move |first| {
            (0..head_dim).flat_map(move |channel| (first..first + GROUP).map(move |token| (token, channel)))
        })),
        (Side::Values, true) => Box::new((0..head_dim).step_by(CHANNELS).flat_map(move |first| {
            (0..BLOCK).step_by(QUAD).flat_map(move |quad| {
                channels(first, head_dim)
                    .flat_map(move |channel| (quad..quad + QUAD).map(move |t| (t, channel)))
            })
        })),
        (Side::Values, false) => Box::new((0..head_dim).step_by(CHANNELS).flat_map(move |first| {
            (0..BLOCK).flat_map(move |token| channels(first, head_dim).map(move |channel| (token, channel)))
        })),
    }
}

/// (token, channel) of the low and the high nibble of every byte of an int4 block, in the order of storage.
pub(crate) fn nibble_order(side: Side, head_dim: usize) -> Box<dyn Iterator<Item = [(usize, usize); 2]>> {
    match side {
        Side::Keys => Box::new((0..BLOCK).step_by(GROUP).flat_map(move |first| {
            (0..head_dim).step_by(2 * QUAD).flat_map(move |octet| {
                (first..first + GROUP).flat_map(move |token| {
                    (octet..octet + QUAD).map(move |channel| [(token, channel), (token, channel + QUAD)])
                })
            })
        })),
        Side::Values => Box::new((0..head_dim).step_by(CHANNELS).flat_map(move |first| {
            (0..BLOCK).step_by(2 * QUAD).flat_map(move |octet| {
                channels(first, head_dim).flat_map(move |channel| {
                    (octet..octet + QUAD).map(move |token| [(token, channel), (token + QUAD, channel)])
                })
            })
        })),
    }
}

/// The channels laid out together that begin with `first`; fewer at the end of a row.
fn channels(first: usize, head_dim: usize) -> std::ops::Range<usize> {
    first..head_dim.min(first + CHANNELS)
}
