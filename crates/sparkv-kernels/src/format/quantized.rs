//! Rows in int8: codes of a byte, which packed rows keep, too.

use super::float16::{read_f16, store_f16};
use super::lanes::lane_order;
use super::layout::Layout;
use super::{BLOCK, Side};

/// What is added to the codes of int8 keys.
pub(crate) const KEY_BIAS: u8 = 128;

pub(super) fn encode_int8(layout: &Layout, rows: &[f32], bytes: &mut [u8]) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at_mut(BLOCK * head_dim);
    let mut steps = [0f32; BLOCK];
    for ((row, bytes), step) in rows.chunks_exact(head_dim).zip(scales.as_chunks_mut().0).zip(&mut steps) {
        *step = store_f16(largest_magnitude(row) / 127.0, bytes);
    }
    lane_order(layout.side(), head_dim, true).enumerate().for_each(|(element, (token, channel))| {
        let code = to_code(rows[token * head_dim + channel], steps[token]);
        codes[element] = code_byte(layout.side(), code);
    });
}

pub(super) fn for_each_int8(layout: &Layout, bytes: &[u8], mut put: impl FnMut(usize, usize, f32)) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at(BLOCK * head_dim);
    lane_order(layout.side(), head_dim, true).enumerate().for_each(|(element, (token, channel))| {
        let code = code(layout.side(), codes[element]);
        put(token, channel, f32::from(code) * read_f16(scales, token));
    });
}

/// `value` in steps of `scale`, rounded to even and saturated to ±127; 0 where the scale is 0.
pub(crate) fn to_code(value: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    // A number so large has no bits for a fraction: adding it rounds, to even, what is small. The limits being
    // whole, clamping may come before. (`round_ties_even` is a call, and slow, on the oldest of processors.)
    const WHOLE: f32 = 12_582_912.0; // 3 * 2^22
    ((value * (1.0 / scale)).clamp(-127.0, 127.0) + WHOLE - WHOLE) as i8
}

/// max |x|; 0 for an empty row. A NaN is passed over.
pub(crate) fn largest_magnitude(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

pub(crate) fn code_byte(side: Side, code: i8) -> u8 {
    match side {
        Side::Keys => code.cast_unsigned() ^ KEY_BIAS,
        Side::Values => code.cast_unsigned(),
    }
}

pub(super) fn code(side: Side, byte: u8) -> i8 {
    match side {
        Side::Keys => (byte ^ KEY_BIAS).cast_signed(),
        Side::Values => byte.cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::Format;
    use crate::format::float16::to_f16;
    use crate::format::testing::{any_rows, any_side, round_trip};

    proptest! {
        #[test]
        fn int8_is_within_half_a_step(rows in any_rows(), side in any_side()) {
            let head_dim = rows.len() / BLOCK;
            let back = round_trip(side, Format::Int8, &rows);
            for (row, back) in rows.chunks(head_dim).zip(back.chunks(head_dim)) {
                let step = to_f16(largest_magnitude(row) / 127.0).to_f32();
                for (back, value) in back.iter().zip(row) {
                    // The f16 scale may be a little small (its relative error is 2^-11), and is 0 for rows
                    // that f16 cannot express.
                    prop_assert!((back - value).abs() <= 0.5 * step + value.abs() * 1e-3 + 127.0 * 6e-8);
                }
            }
        }
    }
}
