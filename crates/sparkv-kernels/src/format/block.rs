//! Blocks of [`BLOCK`] rows in int8, in fewer bits or packed, written at once. This is the reference; faster code gives the
//! same bytes.
//!
//! With D channels, T of them kept and P = D - T pruned, a block is these sections, one after the other; all
//! integers are little-endian, bits count from the lowest of the first byte:
//!
//! ```text
//! int8    | codes, 32 D bytes | scales, 32 f16 |
//! planes  | for the channels of each number of bits: planes of 4, 2 and 1 | scales, 32 f16 |
//! packed  | kept values, 32 T | bitmap of kept, 4 D bytes | signs, 4 D bytes | scales, 32 f16 | c, 32 bytes |
//! ```
//!
//! Elements are in *lane order*, the order in which kernels read them: a token per lane and 4 channels together for
//! keys, a channel per lane and 4 tokens together for values. Kept values leave out what is pruned; signs (set:
//! negative) are unset for what is kept. (They could leave it out, which is T bits a row less; but then they must be
//! spread out again, which takes longer than all else that reading a packed row does.) The magnitude of what is pruned
//! is c steps of the scale: a row is `scale * small integers` throughout, which is what an integer dot product wants.
//!
//! Codes of int8 keys, the kept ones of packed keys among them, are stored plus 128, as the unsigned operand of such a
//! product; codes of int8 values are two's complement; those of fewer bits stand for odd numbers
//! (`format/planes.rs` has all about them).
//!
//! For tests of exactness, packed values may be f32. They are not in fours, and 32 magnitudes in f32 take the place of
//! scales and c.
//!
//! Keys are packed in the **scaled domain**: channel j times sqrt(n_j), n_j the query energy of the channel.
//! There the SparK saliency n_j * k_j^2 is just the squared magnitude, and the paper's fill
//! sqrt(mean saliency / n_j) is sqrt(mean saliency) for every channel. Queries are divided by sqrt(n_j).

use super::layout::{Format, Layout};
use super::{BLOCK, packed, planes, quantized};

/// Quantizes `rows` ([`BLOCK`], head_dim) into `bytes` ([`Layout::unit_bytes`]). `weights` (head_dim): what a channel's
/// squared error counts where rows of few bits are rounded; empty where all count alike.
///
/// # Panics
/// If the lengths are not those, or the layout is not quantized.
pub fn encode(layout: &Layout, rows: &[f32], weights: &[f32], bytes: &mut [u8]) {
    check(layout, rows.len(), bytes.len());
    match layout.format() {
        Format::Int8 => quantized::encode_int8(layout, rows, bytes),
        Format::Planes(widths) => planes::encode(layout, &widths, rows, weights, bytes),
        Format::Packed(packing) => packed::encode(layout, &packing, rows, bytes),
        Format::F32 | Format::F16 => {}
    }
}

/// Reads the block in `bytes` ([`Layout::unit_bytes`]) into `rows` ([`BLOCK`], head_dim); pruned channels are
/// recovered. Bytes that [`encode`] never wrote give some rows, too.
///
/// # Panics
/// If the lengths are not those, or the layout is not quantized.
pub fn decode(layout: &Layout, bytes: &[u8], rows: &mut [f32]) {
    check(layout, rows.len(), bytes.len());
    for_each(layout, bytes, |token, channel, value| rows[token * layout.head_dim() + channel] = value);
}

/// Calls `put` with (token, channel, value) of every element of the block `bytes`, in the order of storage.
pub(crate) fn for_each(layout: &Layout, bytes: &[u8], put: impl FnMut(usize, usize, f32)) {
    match layout.format() {
        Format::Int8 => quantized::for_each_int8(layout, bytes, put),
        Format::Planes(widths) => planes::for_each(layout, &widths, bytes, put),
        Format::Packed(packing) => packed::for_each(layout, &packing, bytes, put),
        Format::F32 | Format::F16 => {}
    }
}

pub(crate) fn check(layout: &Layout, values: usize, bytes: usize) {
    assert!(layout.is_quantized(), "dense rows are not quantized");
    assert_eq!((values, bytes), (BLOCK * layout.head_dim(), layout.unit_bytes()), "lengths of a block");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{any_side, quantized_formats};

    proptest! {
        /// Bytes that `encode` never wrote are read without a panic.
        #[test]
        fn any_bytes_decode(
            bytes in prop::collection::vec(any::<u8>(), 32 * 300), side in any_side(), kept in 1usize..64,
        ) {
            for format in quantized_formats(side, 64, kept) {
                let layout = Layout::new(side, 64, format).unwrap();
                decode(&layout, &bytes[..layout.unit_bytes()], &mut [0.0; 64 * BLOCK]);
            }
        }
    }
}
