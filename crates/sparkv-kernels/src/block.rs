//! Quantized blocks: [`BLOCK`] rows in int8, int4 or packed, written at once. This is the reference; faster
//! code gives the same bytes.
//!
//! With D channels, T of them kept and P = D - T pruned, a block is these sections, one after the other; all
//! integers are little-endian, bits count from the lowest of the first byte:
//!
//! ```text
//! int8    | codes, 32 D bytes | scales, 32 f16 |
//! int4    | codes, 16 D bytes | scales, one f16 for each group of 32 channels and token |
//! packed  | kept values, 32 T | bitmap of kept, 4 D bytes | signs, 4 D bytes | levels, 4 D bytes | scalars |
//! ```
//!
//! Elements are in *lane order*, the order in which kernels read them: a token per lane and 4 channels
//! together for keys, a channel per lane and 4 tokens together for values; values wider than a byte not in
//! fours. Kept values leave out what is pruned; signs (set: negative) and levels (set: the higher magnitude;
//! only with two levels) are unset for what is kept. (They could leave it out, which is T bits a row less; but then
//! they must be spread out again, which takes longer than all else that reading a packed row does.) The scalars are 32 magnitudes in the width of the values; with two
//! levels 32 higher ones follow. With int8 values they are instead 32 f16 scales, then 32 bytes c, the magnitude in
//! steps of the scale (then 32 bytes for the higher one): a row is `scale * small integers` throughout, which
//! is what an integer dot product wants.
//!
//! Codes of int8 keys are stored plus 128 and those of int4 plus 8, as the unsigned operand of such a
//! product; codes of int8 values are two's complement.
//!
//! Keys are packed in the **scaled domain**: channel j times sqrt(n_j), n_j the query energy of the channel.
//! There the SparK saliency n_j * k_j^2 is just the squared magnitude, and the paper's fill
//! sqrt(mean saliency / n_j) is sqrt(mean saliency) for every channel. Queries are divided by sqrt(n_j).

use half::f16;

use crate::bits::{BitWriter, bit};
use crate::expand::widen;
use crate::lanes::{lane_order, nibble_order};
use crate::layout::{BLOCK, F16_BYTES, Format, INT4_CHANNELS, Layout, MAX_HEAD_DIM, Side};
use crate::select::{KeptFormat, Levels, Packing, Selection};

/// What is added to the codes of int8 keys.
pub(crate) const KEY_BIAS: u8 = 128;

/// What is added to the codes of int4 rows.
pub(crate) const INT4_BIAS: u8 = 8;

/// Quantizes `rows` ([`BLOCK`], head_dim) into `bytes` ([`Layout::unit_bytes`]).
///
/// # Panics
/// If the lengths are not those, or the layout is not quantized.
pub fn encode(layout: &Layout, rows: &[f32], bytes: &mut [u8]) {
    check(layout, rows.len(), bytes.len());
    match layout.format() {
        Format::Int8 => encode_int8(layout, rows, bytes),
        Format::Int4 => encode_int4(layout, rows, bytes),
        Format::Packed(packing) => encode_packed(layout, &packing, rows, bytes),
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
        Format::Int8 => for_each_int8(layout, bytes, put),
        Format::Int4 => for_each_int4(layout, bytes, put),
        Format::Packed(packing) => for_each_packed(layout, &packing, bytes, put),
        Format::F32 | Format::F16 => {}
    }
}

pub(crate) fn check(layout: &Layout, values: usize, bytes: usize) {
    assert!(layout.is_quantized(), "dense rows are not quantized");
    assert_eq!((values, bytes), (BLOCK * layout.head_dim(), layout.unit_bytes()), "lengths of a block");
}

fn encode_int8(layout: &Layout, rows: &[f32], bytes: &mut [u8]) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at_mut(BLOCK * head_dim);
    let mut steps = [0f32; BLOCK];
    for ((row, bytes), step) in rows.chunks_exact(head_dim).zip(scales.as_chunks_mut().0).zip(&mut steps) {
        *step = store_f16(largest_magnitude(row) / 127.0, bytes);
    }
    lane_order(layout.side(), head_dim, true).enumerate().for_each(|(element, (token, channel))| {
        let code = to_code(rows[token * head_dim + channel], steps[token], 127.0);
        codes[element] = code_byte(layout.side(), code);
    });
}

fn for_each_int8(layout: &Layout, bytes: &[u8], mut put: impl FnMut(usize, usize, f32)) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at(BLOCK * head_dim);
    lane_order(layout.side(), head_dim, true).enumerate().for_each(|(element, (token, channel))| {
        let code = code(layout.side(), codes[element]);
        put(token, channel, f32::from(code) * read_f16(scales, token));
    });
}

fn encode_int4(layout: &Layout, rows: &[f32], bytes: &mut [u8]) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at_mut(BLOCK / 2 * head_dim);
    let mut steps = [[0f32; BLOCK]; MAX_HEAD_DIM / INT4_CHANNELS];
    for (token, row) in rows.chunks_exact(head_dim).enumerate() {
        for (group, channels) in row.chunks(INT4_CHANNELS).enumerate() {
            // The largest value, with its sign, becomes the code -8: there is no +8.
            let largest = channels.iter().fold(0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
            let scales = scales.as_chunks_mut().0;
            steps[group][token] = store_f16(largest / -8.0, &mut scales[group * BLOCK + token]);
        }
    }
    nibble_order(layout.side(), head_dim).enumerate().for_each(|(element, nibbles)| {
        let [low, high] = nibbles.map(|(token, channel)| {
            let step = steps[channel / INT4_CHANNELS][token];
            to_code(rows[token * head_dim + channel], step, 7.0)
                .wrapping_add_unsigned(INT4_BIAS)
                .cast_unsigned()
        });
        codes[element] = low | high << 4;
    });
}

fn for_each_int4(layout: &Layout, bytes: &[u8], mut put: impl FnMut(usize, usize, f32)) {
    let head_dim = layout.head_dim();
    let (codes, scales) = bytes.split_at(BLOCK / 2 * head_dim);
    nibble_order(layout.side(), head_dim).enumerate().for_each(|(element, nibbles)| {
        let byte = codes[element];
        for ((token, channel), nibble) in nibbles.into_iter().zip([byte & 15, byte >> 4]) {
            let scale = read_f16(scales, channel / INT4_CHANNELS * BLOCK + token);
            put(token, channel, (f32::from(nibble) - f32::from(INT4_BIAS)) * scale);
        }
    });
}

fn encode_packed(layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    let (head_dim, side) = (layout.head_dim(), layout.side());
    let sections = packing.sections(head_dim);
    let selections: Vec<Selection> =
        rows.chunks_exact(head_dim).map(|row| Selection::new(row, packing)).collect();
    let (values, bytes) = bytes.split_at_mut(sections.bitmap);
    let (bitmap, bytes) = bytes.split_at_mut(sections.signs - sections.bitmap);
    let (signs, bytes) = bytes.split_at_mut(sections.levels - sections.signs);
    let (levels, scalars) = bytes.split_at_mut(sections.scalars - sections.levels);
    let mut scales = [0f32; BLOCK];
    for (token, (selection, row)) in selections.iter().zip(rows.chunks_exact(head_dim)).enumerate() {
        scales[token] = encode_scalars(packing, selection, row, token, scalars);
    }
    let [mut bitmap, mut signs, mut levels] = [bitmap, signs, levels].map(BitWriter::new);
    let quads = packing.values == KeptFormat::Int8;
    let mut kept = 0;
    lane_order(side, head_dim, quads).for_each(|(token, channel)| {
        let value = rows[token * head_dim + channel];
        let is_kept = selections[token].kept[channel];
        bitmap.push(is_kept);
        signs.push(!is_kept && value.is_sign_negative());
        levels.push(selections[token].high[channel]); // without such a section, it is dropped
        if !is_kept {
            return;
        }
        match packing.values {
            KeptFormat::F32 => values.as_chunks_mut().0[kept] = value.to_le_bytes(),
            KeptFormat::F16 => values.as_chunks_mut().0[kept] = to_f16(value).to_le_bytes(),
            KeptFormat::Int8 => values[kept] = code_byte(side, to_code(value, scales[token], 127.0)),
        }
        kept += 1;
    });
    for bits in [bitmap, signs, levels] {
        bits.finish();
    }
}

/// Writes the scale or the magnitudes of row `token`; gives the scale.
pub(crate) fn encode_scalars(
    packing: &Packing,
    selection: &Selection,
    row: &[f32],
    token: usize,
    scalars: &mut [u8],
) -> f32 {
    let levels = if packing.levels == Levels::Two { 2 } else { 1 };
    let fills = &selection.fills[..levels];
    match packing.values {
        KeptFormat::F32 => {
            for (level, fill) in fills.iter().enumerate() {
                scalars.as_chunks_mut().0[level * BLOCK + token] = fill.to_le_bytes();
            }
            1.0
        }
        KeptFormat::F16 => {
            for (level, fill) in fills.iter().enumerate() {
                store_f16(*fill, &mut scalars.as_chunks_mut().0[level * BLOCK + token]);
            }
            1.0
        }
        KeptFormat::Int8 => {
            // Any largest value of the row is among the kept.
            let exact = int8_scale(largest_magnitude(row), fills[levels - 1]);
            let scale = store_f16(exact, &mut scalars.as_chunks_mut().0[token]);
            for (level, fill) in fills.iter().enumerate() {
                let steps = to_code(*fill, exact, 127.0).unsigned_abs();
                scalars[F16_BYTES * BLOCK + level * BLOCK + token] = steps;
            }
            scale
        }
    }
}

fn for_each_packed(layout: &Layout, packing: &Packing, bytes: &[u8], mut put: impl FnMut(usize, usize, f32)) {
    let (head_dim, side) = (layout.head_dim(), layout.side());
    let sections = packing.sections(head_dim);
    let fills: Vec<[f32; 2]> =
        (0..BLOCK).map(|token| read_fills(packing, &bytes[sections.scalars..], token)).collect();
    let two_levels = packing.levels == Levels::Two;
    let quads = packing.values == KeptFormat::Int8;
    let mut kept = 0;
    lane_order(side, head_dim, quads).enumerate().for_each(|(element, (token, channel))| {
        // A bitmap with too many or too few bits, which `encode` never writes, reads zeros.
        let value = if bit(&bytes[sections.bitmap..], element) {
            let values = &bytes[..sections.bitmap];
            let value = match packing.values {
                KeptFormat::F32 => values.as_chunks().0.get(kept).map(|bytes| f32::from_le_bytes(*bytes)),
                KeptFormat::F16 => (kept < values.len() / 2).then(|| read_f16(values, kept)),
                KeptFormat::Int8 => values
                    .get(kept)
                    .map(|byte| f32::from(code(side, *byte)) * read_f16(&bytes[sections.scalars..], token)),
            };
            kept += 1;
            value.unwrap_or(0.0)
        } else {
            let high = two_levels && bit(&bytes[sections.levels..], element);
            let fill = fills[token][usize::from(high)];
            let negative = bit(&bytes[sections.signs..], element);
            if negative { -fill } else { fill }
        };
        put(token, channel, value);
    });
}

/// The magnitudes of row `token`; the higher one is 0 with one level.
fn read_fills(packing: &Packing, scalars: &[u8], token: usize) -> [f32; 2] {
    let levels = if packing.levels == Levels::Two { 2 } else { 1 };
    let mut fills = [0.0; 2];
    for (level, fill) in fills.iter_mut().enumerate().take(levels) {
        *fill = match packing.values {
            KeptFormat::F32 => scalars
                .as_chunks()
                .0
                .get(level * BLOCK + token)
                .map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
            KeptFormat::F16 => read_f16(scalars, level * BLOCK + token),
            KeptFormat::Int8 => {
                let steps = scalars[F16_BYTES * BLOCK + level * BLOCK + token];
                read_f16(scalars, token) * f32::from(steps)
            }
        };
    }
    fills
}

/// The scale of an int8 row whose pruned channels are recovered with the magnitude `fill`: `fill` over a whole
/// number of steps, so that the magnitude is met exactly, with as many steps as leave `largest` within 127.
/// Where the magnitude is under one step, the scale is `largest / 127`.
pub(crate) fn int8_scale(largest: f32, fill: f32) -> f32 {
    let steps = (127.0 * (fill / largest)).floor();
    if steps >= 1.0 { fill / steps.min(127.0) } else { largest / 127.0 }
}

/// `value` in steps of `scale`, rounded to even and saturated to [-`limit` - 1, `limit`] for `limit` 7, to
/// ±127 for 127; 0 where the scale is 0.
pub(crate) fn to_code(value: f32, scale: f32, limit: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    let lowest = if limit == 7.0 { -8.0 } else { -limit };
    // A number so large has no bits for a fraction: adding it rounds, to even, what is small. The limits being
    // whole, clamping may come before. (`round_ties_even` is a call, and slow, on the oldest of processors.)
    const WHOLE: f32 = 12_582_912.0; // 3 * 2^22
    ((value * (1.0 / scale)).clamp(lowest, limit) + WHOLE - WHOLE) as i8
}

/// max |x|; 0 for an empty row. A NaN is passed over.
pub(crate) fn largest_magnitude(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Nearest f16; what is too large becomes the largest finite one, so that a stored scale never turns a row
/// of finite values into infinities.
pub(crate) fn to_f16(value: f32) -> f16 {
    if value.is_finite() {
        f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
    } else {
        f16::from_f32(value)
    }
}

/// Stores `value` as an f16, and gives what was stored.
fn store_f16(value: f32, bytes: &mut [u8; F16_BYTES]) -> f32 {
    let half = to_f16(value);
    *bytes = half.to_le_bytes();
    half.to_f32()
}

/// The f16 at `index`.
pub(crate) fn read_f16(bytes: &[u8], index: usize) -> f32 {
    bytes.as_chunks().0.get(index).map_or(0.0, |bytes| widen(u16::from_le_bytes(*bytes)))
}

pub(crate) fn code_byte(side: Side, code: i8) -> u8 {
    match side {
        Side::Keys => code.cast_unsigned() ^ KEY_BIAS,
        Side::Values => code.cast_unsigned(),
    }
}

fn code(side: Side, byte: u8) -> i8 {
    match side {
        Side::Keys => (byte ^ KEY_BIAS).cast_signed(),
        Side::Values => byte.cast_signed(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::select::Fill;

    /// Magnitudes from denormal to overflowing f16, for blocks of any supported head_dim up to 256.
    pub(crate) fn any_rows() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            4 => -4f32..4.0,
            1 => Just(0.0),
            1 => -1e-40f32..1e-40,
            1 => -1e5f32..1e5,
        ];
        let any = (1usize..=32).prop_flat_map(move |d| prop::collection::vec(value.clone(), 8 * d * BLOCK));
        let equal = (1usize..=32, -3f32..3.0).prop_map(|(d, value)| vec![value; 8 * d * BLOCK]);
        prop_oneof![6 => any, 1 => equal]
    }

    /// A packed format for rows of `head_dim` channels, if the ratio prunes anything.
    pub(crate) fn any_packing() -> impl Strategy<Value = (f64, KeptFormat, Fill, Levels)> {
        let values = prop_oneof![Just(KeptFormat::F32), Just(KeptFormat::F16), Just(KeptFormat::Int8)];
        let fill = prop_oneof![Just(Fill::RootMeanSquare), Just(Fill::MeanMagnitude)];
        let levels = prop_oneof![Just(Levels::One), Just(Levels::Two)];
        (0.02f64..1.0, values, fill, levels)
    }

    pub(crate) fn any_side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Keys), Just(Side::Values)]
    }

    fn round_trip(side: Side, format: Format, rows: &[f32]) -> Vec<f32> {
        let layout = Layout::new(side, rows.len() / BLOCK, format).unwrap();
        // What was in the bytes before must not matter.
        let mut bytes = vec![0xa5; layout.unit_bytes()];
        let mut back = vec![0.0; rows.len()];
        encode(&layout, rows, &mut bytes);
        decode(&layout, &bytes, &mut back);
        back
    }

    /// The definition, in f64: what a row is recovered as.
    fn recovered(row: &[f32], packing: &Packing) -> Vec<f64> {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
        let pruned = &order[packing.kept..];
        let magnitude = |channel: usize| f64::from(row[channel].abs());
        let border = match packing.levels {
            Levels::One => f64::INFINITY,
            // As the encoder has it: rounded to f32.
            Levels::Two => {
                let sum: f64 = pruned.iter().map(|&c| magnitude(c)).sum();
                f64::from((sum / pruned.len() as f64) as f32)
            }
        };
        let mut back: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
        for is_high in [false, true] {
            let level: Vec<usize> =
                pruned.iter().copied().filter(|&c| (magnitude(c) > border) == is_high).collect();
            let mean = |of: &dyn Fn(f64) -> f64| {
                level.iter().map(|&c| of(magnitude(c))).sum::<f64>() / level.len() as f64
            };
            let fill = match packing.fill {
                Fill::RootMeanSquare => mean(&|m| m * m).sqrt(),
                Fill::MeanMagnitude => mean(&|m| m),
            };
            level.iter().for_each(|&c| back[c] = fill.copysign(f64::from(row[c])));
        }
        back
    }

    proptest! {
        #[test]
        fn packed_rows_are_recovered_by_the_definition(
            rows in any_rows(), side in any_side(), (ratio, values, fill, levels) in any_packing(),
        ) {
            let head_dim = rows.len() / BLOCK;
            let format = Packing::format_for(head_dim, ratio, values, fill, levels);
            let Format::Packed(packing) = format else { return Ok(()) };
            let back = round_trip(side, format, &rows);
            let (tolerance, limit) = match values {
                KeptFormat::F32 => (1e-6, f64::INFINITY),
                KeptFormat::F16 => (5e-4, 65504.0),
                KeptFormat::Int8 => (1.0 / 127.0, f64::INFINITY),
            };
            for (row, back) in rows.chunks(head_dim).zip(back.chunks(head_dim)) {
                let largest = f64::from(largest_magnitude(row));
                for (expected, back) in recovered(row, &packing).into_iter().zip(back) {
                    let expected = expected.clamp(-limit, limit);
                    // 127 steps of the smallest f16 is the floor of what an int8 row can express. A sum near
                    // the border of two levels may be rounded to either side.
                    let border = if levels == Levels::Two { 1e-6 } else { 0.0 };
                    prop_assert!(
                        (f64::from(*back) - expected).abs() <= (tolerance + border) * largest + 127.0 * 6e-8,
                        "{back} for {expected}, largest {largest}"
                    );
                }
            }
        }

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

        #[test]
        fn int4_is_within_a_step(rows in any_rows(), side in any_side()) {
            let head_dim = rows.len() / BLOCK;
            let back = round_trip(side, Format::Int4, &rows);
            for (row, back) in rows.chunks(head_dim).zip(back.chunks(head_dim)) {
                for (row, back) in row.chunks(INT4_CHANNELS).zip(back.chunks(INT4_CHANNELS)) {
                    let step = largest_magnitude(row) / 8.0;
                    for (back, value) in back.iter().zip(row) {
                        prop_assert!((back - value).abs() <= 1.005 * step + 8.0 * 6e-8, "{back} for {value}");
                    }
                }
            }
        }

        /// Bytes that `encode` never wrote are read without a panic.
        #[test]
        fn any_bytes_decode(
            bytes in prop::collection::vec(any::<u8>(), 32 * 300), side in any_side(),
            (ratio, values, fill, levels) in any_packing(),
        ) {
            let packed = Packing::format_for(64, ratio, values, fill, levels);
            for format in [packed, Format::Int8, Format::Int4] {
                let layout = Layout::new(side, 64, format).unwrap();
                if layout.is_quantized() {
                    decode(&layout, &bytes[..layout.unit_bytes()], &mut [0.0; 64 * BLOCK]);
                }
            }
        }
    }

    #[test]
    fn the_int8_magnitude_is_exact_in_steps_of_the_scale() {
        let mut row: Vec<f32> = (0..64).map(|i| 0.2 + 0.001 * i as f32).collect();
        row[3] = -2.0;
        let packing =
            Packing { kept: 16, values: KeptFormat::Int8, fill: Fill::MeanMagnitude, levels: Levels::One };
        let back = round_trip(Side::Keys, Format::Packed(packing), &row.repeat(BLOCK));
        let expected = recovered(&row, &packing)[0];
        assert!((f64::from(back[0]) - expected).abs() < 1e-3 * expected, "{} for {expected}", back[0]);
    }
}
