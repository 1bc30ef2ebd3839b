//! The packed row: unstructured channel pruning with recovery (SparK, arXiv 2508.15212).
//!
//! Of a row's D channels the T of largest magnitude are kept. Each of the other P = D - T is recovered as
//! its sign times one magnitude. A row is
//!
//! ```text
//! | bitmap of kept channels | signs of pruned channels | magnitude        | kept values, channel order |
//! | D/8 bytes               | ceil(P/8) bytes          | 4, 2 or 2+1      | T * (4, 2 or 1) bytes      |
//! ```
//!
//! Bit j%8 of bitmap byte j/8 is set where channel j is kept. Sign bit i, set for negative, belongs to the
//! i-th pruned channel. With int8 values the magnitude is stored as an f16 scale and one byte c, the
//! magnitude being c steps of the scale: the row is then `scale * small integers` throughout, which is what
//! an integer dot product wants.
//!
//! Keys are packed in the **scaled domain**: channel j times sqrt(n_j), n_j the query energy of the channel.
//! There the SparK saliency n_j * k_j^2 is just the squared magnitude, and the paper's fill
//! sqrt(mean saliency / n_j) is sqrt(mean saliency) for every channel. Queries are divided by sqrt(n_j).

use crate::row::{
    MAX_HEAD_DIM, RowFormat, decode_f16, encode_f16, largest_magnitude, quantize, read_f16, to_f16,
};

/// How the magnitude of pruned channels is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Root of the mean square: in the scaled domain, the paper's rule for keys.
    RootMeanSquare,
    /// Mean magnitude, the least-squares choice for given signs: for values.
    MeanMagnitude,
}

/// Storage of a kept value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptFormat {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 1 byte; with one f16 scale a row.
    Int8,
}

impl KeptFormat {
    /// Bytes of the magnitude, and of one kept value.
    fn bytes(self) -> (usize, usize) {
        match self {
            KeptFormat::F32 => (4, 4),
            KeptFormat::F16 => (2, 2),
            KeptFormat::Int8 => (3, 1),
        }
    }
}

/// A packed row format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    /// T: channels kept of every row.
    pub kept: usize,
    /// Storage of a kept value.
    pub values: KeptFormat,
    /// How the magnitude of the others is chosen.
    pub fill: Fill,
}

impl PackedLayout {
    /// The format that prunes `ratio` (in [0, 1)) of `head_dim` channels: T = D - floor(ratio * D). Dense,
    /// with the same storage of values, where that prunes nothing.
    pub fn format_for(head_dim: usize, ratio: f64, values: KeptFormat, fill: Fill) -> RowFormat {
        let pruned = (ratio * head_dim as f64).floor() as usize;
        if pruned > 0 {
            return RowFormat::Packed(PackedLayout { kept: head_dim.saturating_sub(pruned), values, fill });
        }
        match values {
            KeptFormat::F32 => RowFormat::F32,
            KeptFormat::F16 => RowFormat::F16,
            KeptFormat::Int8 => RowFormat::Int8,
        }
    }

    /// Bytes of a packed row.
    pub(crate) fn row_bytes(&self, head_dim: usize) -> usize {
        let (magnitude, value) = self.values.bytes();
        head_dim / 8 + (head_dim - self.kept).div_ceil(8) + magnitude + self.kept * value
    }

    /// See [`crate::RowLayout::encode`], which has checked the lengths.
    pub(crate) fn encode(&self, row: &[f32], bytes: &mut [u8]) {
        let (bitmap, bytes) = bytes.split_at_mut(row.len() / 8);
        let (signs, bytes) = bytes.split_at_mut((row.len() - self.kept).div_ceil(8));
        let (magnitude, values) = bytes.split_at_mut(self.values.bytes().0);
        self.select(row, bitmap);

        signs.fill(0);
        let mut kept = [0f32; MAX_HEAD_DIM];
        let (mut kept_count, mut pruned_count) = (0, 0);
        // In f64: a sum of squares of f32 neither overflows nor vanishes there.
        let mut pruned_sum = 0f64;
        for (channel, &value) in row.iter().enumerate() {
            if bit(bitmap, channel) {
                kept[kept_count] = value;
                kept_count += 1;
            } else {
                if value.is_sign_negative() {
                    set_bit(signs, pruned_count);
                }
                pruned_count += 1;
                let value = f64::from(value);
                pruned_sum += match self.fill {
                    Fill::RootMeanSquare => value * value,
                    Fill::MeanMagnitude => value.abs(),
                };
            }
        }
        let mean = pruned_sum / pruned_count as f64;
        let fill = match self.fill {
            Fill::RootMeanSquare => mean.sqrt(),
            Fill::MeanMagnitude => mean,
        } as f32;
        self.encode_values(&kept[..kept_count], fill, magnitude, values);
    }

    /// Marks the `kept` channels of largest magnitude in `bitmap`; among equals the lower channel.
    fn select(&self, row: &[f32], bitmap: &mut [u8]) {
        let mut channels = [0u16; MAX_HEAD_DIM];
        let channels = &mut channels[..row.len()];
        for (index, channel) in channels.iter_mut().enumerate() {
            *channel = index as u16; // MAX_HEAD_DIM fits
        }
        channels.select_nth_unstable_by(self.kept, |&a, &b| {
            let magnitude = |channel: u16| row[usize::from(channel)].abs();
            magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(&b))
        });
        bitmap.fill(0);
        for &channel in &channels[..self.kept] {
            set_bit(bitmap, usize::from(channel));
        }
    }

    fn encode_values(&self, kept: &[f32], fill: f32, magnitude: &mut [u8], values: &mut [u8]) {
        match self.values {
            KeptFormat::F32 => {
                magnitude.copy_from_slice(&fill.to_le_bytes());
                for (bytes, value) in values.as_chunks_mut::<4>().0.iter_mut().zip(kept) {
                    *bytes = value.to_le_bytes();
                }
            }
            KeptFormat::F16 => {
                magnitude.copy_from_slice(&to_f16(fill).to_le_bytes());
                encode_f16(kept, values);
            }
            KeptFormat::Int8 => {
                let (scale, steps) = int8_scale(largest_magnitude(kept), fill);
                let scale = to_f16(scale);
                magnitude[..2].copy_from_slice(&scale.to_le_bytes());
                magnitude[2] = steps;
                for (byte, value) in values.iter_mut().zip(kept) {
                    *byte = quantize(*value, scale.to_f32()).cast_unsigned();
                }
            }
        }
    }

    /// See [`crate::RowLayout::decode`], which has checked the lengths.
    pub(crate) fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        let (bitmap, bytes) = bytes.split_at(row.len() / 8);
        let (signs, bytes) = bytes.split_at((row.len() - self.kept).div_ceil(8));
        let (magnitude, bytes) = bytes.split_at(self.values.bytes().0);
        let mut values = [0f32; MAX_HEAD_DIM];
        let values = &mut values[..self.kept];
        let fill = match self.values {
            KeptFormat::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
                magnitude.first_chunk::<4>().map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
            }
            KeptFormat::F16 => {
                decode_f16(bytes, values);
                read_f16(magnitude)
            }
            KeptFormat::Int8 => {
                let scale = read_f16(magnitude);
                for (value, byte) in values.iter_mut().zip(bytes) {
                    *value = scale * f32::from(byte.cast_signed());
                }
                scale * f32::from(magnitude[2])
            }
        };
        // 64 channels at a time, and of these only the set bits, so that nothing is left to guess a branch.
        let mut kept = values.iter();
        let mut pruned = 0;
        for (bytes, channels) in bitmap.chunks(8).zip(row.chunks_mut(64)) {
            let mask = word(bytes);
            for channel in set_bits(!mask & (u64::MAX >> (64 - channels.len()))) {
                let negative = signs.get(pruned / 8).map_or(0, |byte| u32::from(byte >> (pruned % 8)) & 1);
                channels[channel] = f32::from_bits(fill.to_bits() ^ negative << 31);
                pruned += 1;
            }
            for channel in set_bits(mask) {
                // A bitmap with too many bits, which `encode` never writes, reads zeros.
                channels[channel] = kept.next().copied().unwrap_or(0.0);
            }
        }
    }
}

/// Up to 8 bytes as an integer.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Places of the bits set, in ascending order.
fn set_bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        place
    })
}

/// The scale of an int8 row and the magnitude of its pruned channels in steps of it. The scale is
/// `fill / steps`, so that the magnitude is met exactly, with as many steps as leave `largest` within 127.
/// Where the magnitude is under one step, it is 0 and the scale is `largest / 127`.
fn int8_scale(largest: f32, fill: f32) -> (f32, u8) {
    let steps = (127.0 * (fill / largest)).floor();
    if steps >= 1.0 {
        let steps = steps.min(127.0) as u8;
        (fill / f32::from(steps), steps)
    } else {
        (largest / 127.0, 0)
    }
}

fn bit(bytes: &[u8], index: usize) -> bool {
    bytes[index / 8] >> (index % 8) & 1 == 1
}

fn set_bit(bytes: &mut [u8], index: usize) {
    bytes[index / 8] |= 1 << (index % 8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::RowLayout;
    use proptest::prelude::*;

    const VALUES: [KeptFormat; 3] = [KeptFormat::F32, KeptFormat::F16, KeptFormat::Int8];

    fn packed(head_dim: usize, ratio: f64, values: KeptFormat, fill: Fill) -> RowLayout {
        RowLayout::new(head_dim, PackedLayout::format_for(head_dim, ratio, values, fill)).unwrap()
    }

    fn round_trip(layout: &RowLayout, row: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0xa5; layout.row_bytes()];
        let mut back = vec![f32::NAN; row.len()];
        layout.encode(row, &mut bytes);
        layout.decode(&bytes, &mut back);
        back
    }

    /// The definition, in f64 and with a full sort: which channels are kept, and the fill of the others.
    fn reference(row: &[f32], kept: usize, fill: Fill) -> (Vec<bool>, f64) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
        let mut is_kept = vec![false; row.len()];
        order[..kept].iter().for_each(|&channel| is_kept[channel] = true);
        let pruned = order[kept..].iter().map(|&channel| f64::from(row[channel]).abs());
        let count = (row.len() - kept) as f64;
        let fill = match fill {
            Fill::RootMeanSquare => (pruned.map(|v| v * v).sum::<f64>() / count).sqrt(),
            Fill::MeanMagnitude => pruned.sum::<f64>() / count,
        };
        (is_kept, fill)
    }

    /// The table of bytes per token in SparK's storage arithmetic (f16 kept values).
    #[test]
    fn bytes_are_those_of_the_arithmetic() {
        let table = [
            (64, 0.5, 32, 78),
            (64, 0.75, 16, 48),
            (64, 0.8, 13, 43),
            (128, 0.5, 64, 154),
            (128, 0.75, 32, 94),
            (128, 0.8, 26, 83),
        ];
        for (head_dim, ratio, kept, bytes) in table {
            let layout = packed(head_dim, ratio, KeptFormat::F16, Fill::RootMeanSquare);
            let RowFormat::Packed(format) = layout.format() else { panic!("{ratio} must prune") };
            assert_eq!((format.kept, layout.row_bytes()), (kept, bytes), "D {head_dim}, ratio {ratio}");
            let int8 = packed(head_dim, ratio, KeptFormat::Int8, Fill::RootMeanSquare);
            assert_eq!(
                int8.row_bytes(),
                bytes - kept + 1,
                "one byte a value, and one more for the magnitude"
            );
        }
    }

    #[test]
    fn a_ratio_that_prunes_nothing_is_dense() {
        for (values, dense) in VALUES.into_iter().zip([RowFormat::F32, RowFormat::F16, RowFormat::Int8]) {
            assert_eq!(PackedLayout::format_for(64, 0.0, values, Fill::MeanMagnitude), dense);
            assert_eq!(PackedLayout::format_for(64, 0.015, values, Fill::MeanMagnitude), dense);
        }
    }

    proptest! {
        #[test]
        fn f32_values_match_the_definition(
            row in crate::row::tests::any_row(), ratio in 0.02f64..1.0, rms in any::<bool>(),
        ) {
            let fill = if rms { Fill::RootMeanSquare } else { Fill::MeanMagnitude };
            let RowFormat::Packed(format) = PackedLayout::format_for(row.len(), ratio, KeptFormat::F32, fill)
            else { return Ok(()) };
            let (is_kept, magnitude) = reference(&row, format.kept, fill);
            let back = round_trip(&packed(row.len(), ratio, KeptFormat::F32, fill), &row);
            for channel in 0..row.len() {
                if is_kept[channel] {
                    prop_assert_eq!(back[channel], row[channel]);
                } else {
                    let expected = magnitude.copysign(f64::from(row[channel]));
                    prop_assert!((f64::from(back[channel]) - expected).abs() <= 1e-6 * magnitude + 1e-44);
                }
            }
        }

        #[test]
        fn smaller_values_stay_near_the_f32_ones(
            row in crate::row::tests::any_row(), ratio in 0.02f64..1.0, rms in any::<bool>(),
        ) {
            let fill = if rms { Fill::RootMeanSquare } else { Fill::MeanMagnitude };
            let exact = round_trip(&packed(row.len(), ratio, KeptFormat::F32, fill), &row);
            let largest = largest_magnitude(&row);
            for (values, tolerance, limit) in
                [(KeptFormat::F16, 5e-4, 65504.0), (KeptFormat::Int8, 1.0 / 127.0, f32::MAX)]
            {
                let back = round_trip(&packed(row.len(), ratio, values, fill), &row);
                for (back, exact) in back.iter().zip(&exact) {
                    let exact = exact.clamp(-limit, limit);
                    // 127 steps of the smallest f16 is the floor of what an int8 row can express.
                    prop_assert!(
                        (back - exact).abs() <= tolerance * largest + 127.0 * 6e-8,
                        "{values:?}: {back} for {exact}, largest {largest}"
                    );
                }
            }
        }

        /// Bytes that `encode` never wrote are read without a panic.
        #[test]
        fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 400), ratio in 0.1f64..0.99) {
            for values in VALUES {
                let layout = packed(64, ratio, values, Fill::MeanMagnitude);
                layout.decode(&bytes[..layout.row_bytes()], &mut [0.0; 64]);
            }
        }
    }

    #[test]
    fn the_int8_magnitude_is_exact_in_steps_of_the_scale() {
        let mut row: Vec<f32> = (0..64).map(|i| 0.2 + 0.001 * i as f32).collect();
        row[3] = -2.0;
        let back = round_trip(&packed(64, 0.75, KeptFormat::Int8, Fill::MeanMagnitude), &row);
        let (is_kept, magnitude) = reference(&row, 16, Fill::MeanMagnitude);
        let fill = back.iter().zip(is_kept).find(|(_, kept)| !kept).map(|(value, _)| *value).unwrap();
        assert!((f64::from(fill) - magnitude).abs() < 1e-3 * magnitude, "{fill} for {magnitude}");
    }
}
