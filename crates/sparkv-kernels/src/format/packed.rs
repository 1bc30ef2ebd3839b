//! Packed rows: the most salient channels of each, and for the others their signs and one magnitude.

use super::bits::{BitWriter, bit};
use super::float16::{read_f16, store_f16};
use super::lanes::lane_order;
use super::layout::Layout;
use super::packing::{KeptFormat, Packing};
use super::quantized::{code, code_byte, to_code};
use super::selection::Selection;
use super::{BLOCK, F16_BYTES};

pub(super) fn encode(layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    let (head_dim, side) = (layout.head_dim(), layout.side());
    let sections = packing.sections(head_dim);
    let selections: Vec<Selection> =
        rows.chunks_exact(head_dim).map(|row| Selection::new(row, packing)).collect();
    let (values, bytes) = bytes.split_at_mut(sections.bitmap);
    let (bitmap, bytes) = bytes.split_at_mut(sections.signs - sections.bitmap);
    let (signs, scalars) = bytes.split_at_mut(sections.scalars - sections.signs);
    let mut scales = [0f32; BLOCK];
    for (token, selection) in selections.iter().enumerate() {
        scales[token] = match packing.values {
            KeptFormat::F32 => {
                scalars.as_chunks_mut().0[token] = selection.fill.to_le_bytes();
                1.0
            }
            KeptFormat::Int8 => encode_scalars(selection, token, scalars),
        };
    }
    let [mut bitmap, mut signs] = [bitmap, signs].map(BitWriter::new);
    let quads = packing.values == KeptFormat::Int8;
    let mut kept = 0;
    lane_order(side, head_dim, quads).for_each(|(token, channel)| {
        let value = rows[token * head_dim + channel];
        let is_kept = selections[token].kept[channel];
        bitmap.push(is_kept);
        signs.push(!is_kept && value.is_sign_negative());
        if !is_kept {
            return;
        }
        match packing.values {
            KeptFormat::F32 => values.as_chunks_mut().0[kept] = value.to_le_bytes(),
            KeptFormat::Int8 => values[kept] = code_byte(side, to_code(value, scales[token])),
        }
        kept += 1;
    });
    bitmap.finish();
    signs.finish();
}

/// Writes the scale of row `token`, whose values are int8, and its magnitude in steps of that; gives the scale.
pub(crate) fn encode_scalars(selection: &Selection, token: usize, scalars: &mut [u8]) -> f32 {
    let exact = int8_scale(selection.largest, selection.fill);
    scalars[F16_BYTES * BLOCK + token] = to_code(selection.fill, exact).unsigned_abs();
    store_f16(exact, &mut scalars.as_chunks_mut().0[token])
}

pub(super) fn for_each(
    layout: &Layout,
    packing: &Packing,
    bytes: &[u8],
    mut put: impl FnMut(usize, usize, f32),
) {
    let (head_dim, side) = (layout.head_dim(), layout.side());
    let sections = packing.sections(head_dim);
    let (values, scalars) = (&bytes[..sections.bitmap], &bytes[sections.scalars..]);
    let fills: Vec<f32> = (0..BLOCK).map(|token| read_fill(packing, scalars, token)).collect();
    let quads = packing.values == KeptFormat::Int8;
    let mut kept = 0;
    lane_order(side, head_dim, quads).enumerate().for_each(|(element, (token, channel))| {
        // A bitmap with too many or too few bits, which `encode` never writes, reads zeros.
        let value = if bit(&bytes[sections.bitmap..], element) {
            let value = match packing.values {
                KeptFormat::F32 => values.as_chunks().0.get(kept).map(|bytes| f32::from_le_bytes(*bytes)),
                KeptFormat::Int8 => {
                    values.get(kept).map(|byte| f32::from(code(side, *byte)) * read_f16(scalars, token))
                }
            };
            kept += 1;
            value.unwrap_or(0.0)
        } else {
            let negative = bit(&bytes[sections.signs..], element);
            if negative { -fills[token] } else { fills[token] }
        };
        put(token, channel, value);
    });
}

/// The magnitude of row `token`.
fn read_fill(packing: &Packing, scalars: &[u8], token: usize) -> f32 {
    match packing.values {
        KeptFormat::F32 => scalars.as_chunks().0.get(token).map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
        KeptFormat::Int8 => read_f16(scalars, token) * f32::from(scalars[F16_BYTES * BLOCK + token]),
    }
}

/// The scale of an int8 row whose pruned channels are recovered with the magnitude `fill`: `fill` over a whole
/// number of steps, so that the magnitude is met exactly, with as many steps as leave `largest` within 127.
/// Where the magnitude is under one step, the scale is `largest / 127`.
fn int8_scale(largest: f32, fill: f32) -> f32 {
    let steps = (127.0 * (fill / largest)).floor();
    if steps >= 1.0 { fill / steps.min(127.0) } else { largest / 127.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::quantized::largest_magnitude;
    use crate::format::testing::{any_packing, any_rows, any_side, round_trip};
    use crate::format::{Fill, Format, Side};

    /// The definition, in f64: what a row is recovered as.
    fn recovered(row: &[f32], packing: &Packing) -> Vec<f64> {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
        let pruned = &order[packing.kept..];
        let mean = |of: &dyn Fn(f64) -> f64| {
            pruned.iter().map(|&c| of(f64::from(row[c].abs()))).sum::<f64>() / pruned.len() as f64
        };
        let fill = match packing.fill {
            Fill::RootMeanSquare => mean(&|m| m * m).sqrt(),
            Fill::MeanMagnitude => mean(&|m| m),
        };
        let mut back: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
        pruned.iter().for_each(|&c| back[c] = fill.copysign(f64::from(row[c])));
        back
    }

    proptest! {
        #[test]
        fn packed_rows_are_recovered_by_the_definition(
            rows in any_rows(), side in any_side(), (ratio, values, fill) in any_packing(),
        ) {
            let head_dim = rows.len() / BLOCK;
            let Some(packing) = Packing::new(head_dim, ratio, values, fill) else { return Ok(()) };
            let back = round_trip(side, Format::Packed(packing), &rows);
            let tolerance = match values {
                KeptFormat::F32 => 1e-6,
                KeptFormat::Int8 => 1.0 / 127.0,
            };
            for (row, back) in rows.chunks(head_dim).zip(back.chunks(head_dim)) {
                let largest = f64::from(largest_magnitude(row));
                for (expected, back) in recovered(row, &packing).into_iter().zip(back) {
                    // 127 steps of the smallest f16 is the floor of what an int8 row can express.
                    prop_assert!(
                        (f64::from(*back) - expected).abs() <= tolerance * largest + 127.0 * 6e-8,
                        "{back} for {expected}, largest {largest}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_int8_magnitude_is_exact_in_steps_of_the_scale() {
        let mut row: Vec<f32> = (0..64).map(|i| 0.2 + 0.001 * i as f32).collect();
        row[3] = -2.0;
        let packing = Packing { kept: 16, values: KeptFormat::Int8, fill: Fill::MeanMagnitude };
        let back = round_trip(Side::Keys, Format::Packed(packing), &row.repeat(BLOCK));
        let expected = recovered(&row, &packing)[0];
        assert!((f64::from(back[0]) - expected).abs() < 1e-3 * expected, "{} for {expected}", back[0]);
    }
}
