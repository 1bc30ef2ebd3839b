//! Sealed blocks read back into f32, laid out as dense groups are: the way of machines without an integer
//! dot product, and of kept values that are not integers.

use crate::block;
use crate::layout::{GROUP, Layout};
use crate::simd::LANES;

/// Reads the block `bytes` of keys into `keys` (2 groups, head_dim): a channel of 16 tokens each.
pub(crate) fn keys(layout: &Layout, bytes: &[u8], keys: &mut [[f32; LANES]]) {
    let head_dim = layout.head_dim();
    block::for_each(layout, bytes, |token, channel, value| {
        keys[token / GROUP * head_dim + channel][token % GROUP] = value;
    });
}

/// Reads the block `bytes` of values into `values` (BLOCK, ceil(head_dim / 16)).
pub(crate) fn values(layout: &Layout, bytes: &[u8], values: &mut [[f32; LANES]]) {
    let vectors = layout.head_dim().div_ceil(LANES);
    block::for_each(layout, bytes, |token, channel, value| {
        values[token * vectors + channel / LANES][channel % LANES] = value;
    });
}
