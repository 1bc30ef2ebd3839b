//! SparK's rule for one row: which channels are kept, and what the others are recovered from.

use crate::layout::{Format, MAX_HEAD_DIM};

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

/// How many magnitudes the pruned channels of a row are recovered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// One for all, as in the paper.
    One,
    /// One for those below the mean magnitude and one for those above, told apart by one more bit a channel.
    /// Not in the paper.
    Two,
}

/// What a packed row keeps, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// T: channels kept of every row.
    pub kept: usize,
    /// Storage of a kept value.
    pub values: KeptFormat,
    /// How the magnitude of the others is chosen.
    pub fill: Fill,
    /// How many magnitudes there are.
    pub levels: Levels,
}

impl Packing {
    /// The packing that prunes `ratio` (in [0, 1)) of `head_dim` channels: T = D - floor(ratio * D). None where that
    /// prunes nothing.
    pub fn new(head_dim: usize, ratio: f64, values: KeptFormat, fill: Fill) -> Option<Self> {
        let pruned = (ratio * head_dim as f64).floor() as usize;
        let kept = head_dim.saturating_sub(pruned);
        (pruned > 0).then_some(Self { kept, values, fill, levels: Levels::One })
    }

    /// The format that prunes `ratio` (in [0, 1)) of `head_dim` channels: T = D - floor(ratio * D). Dense,
    /// with the same storage of values, where that prunes nothing.
    pub fn format_for(head_dim: usize, ratio: f64, values: KeptFormat, fill: Fill, levels: Levels) -> Format {
        let pruned = (ratio * head_dim as f64).floor() as usize;
        if pruned > 0 {
            return Format::Packed(Packing { kept: head_dim.saturating_sub(pruned), values, fill, levels });
        }
        match values {
            KeptFormat::F32 => Format::F32,
            KeptFormat::F16 => Format::F16,
            KeptFormat::Int8 => Format::Int8,
        }
    }
}

/// What of a row is kept, and the magnitudes of the rest.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// (head_dim): whether the channel is kept.
    pub(crate) kept: [bool; MAX_HEAD_DIM],
    /// (head_dim): whether a pruned channel is recovered with the higher magnitude. Never with one level.
    pub(crate) high: [bool; MAX_HEAD_DIM],
    /// The magnitude, or the lower and the higher one.
    pub(crate) fills: [f32; 2],
}

impl Selection {
    /// Keeps the `packing.kept` channels of largest magnitude; among equals the lower channel.
    #[inline(always)]
    pub(crate) fn new(row: &[f32], packing: &Packing) -> Self {
        let mut selection =
            Self { kept: [false; MAX_HEAD_DIM], high: [false; MAX_HEAD_DIM], fills: [0.0; 2] };
        // Without the sign, the bits of a float are in the order of its magnitude.
        let mut magnitudes = [0i32; MAX_HEAD_DIM];
        let magnitudes = &mut magnitudes[..row.len()];
        for (magnitude, value) in magnitudes.iter_mut().zip(row) {
            *magnitude = value.abs().to_bits().cast_signed();
        }
        let border = border(magnitudes, packing.kept as i32);
        let mut larger = 0;
        for (kept, magnitude) in selection.kept.iter_mut().zip(&*magnitudes) {
            *kept = *magnitude > border;
            larger += usize::from(*kept);
        }
        let missing = packing.kept.saturating_sub(larger);
        let equal = magnitudes.iter().enumerate().filter(|(_, magnitude)| **magnitude == border);
        for (channel, _) in equal.take(missing) {
            selection.kept[channel] = true;
        }
        selection.choose_fills(row, packing);
        selection
    }

    #[inline(always)]
    fn choose_fills(&mut self, row: &[f32], packing: &Packing) {
        let kept = self.kept;
        if packing.levels == Levels::Two {
            let border = mean(row, Fill::MeanMagnitude, |channel| !kept[channel]);
            for (channel, value) in row.iter().enumerate() {
                self.high[channel] = !kept[channel] & (value.abs() > border);
            }
            let high = self.high;
            self.fills[1] = mean(row, packing.fill, |channel| high[channel]);
        }
        let high = self.high;
        self.fills[0] = mean(row, packing.fill, |channel| !kept[channel] & !high[channel]);
    }
}

/// A number that fewer than `count` of the `magnitudes` are above and at least as many reach; or that exactly
/// `count` are above. Found bit by bit.
#[inline(always)]
fn border(magnitudes: &[i32], count: i32) -> i32 {
    let mut border = 0;
    for bit in (0..31).rev() {
        let tried = border | 1 << bit;
        let reached: i32 = magnitudes.iter().map(|magnitude| i32::from(*magnitude >= tried)).sum();
        if reached == count {
            return tried - 1;
        }
        border |= i32::from(reached > count) << bit;
    }
    border
}

/// The mean over the channels that are `counted`, as `fill` says; 0 if none is.
///
/// In f64, where a sum of squares of f32 neither overflows nor vanishes, with a partial sum for each
/// remainder of the channel by 8, so that a vectorized sum is the same to the bit.
#[inline(always)]
fn mean(row: &[f32], fill: Fill, counted: impl Fn(usize) -> bool) -> f32 {
    let mut sums = [0f64; 8];
    let mut count = 0u32;
    for (eight, values) in row.as_chunks::<8>().0.iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            let is_counted = counted(8 * eight + lane);
            let value = f64::from(*value);
            let term = match fill {
                Fill::RootMeanSquare => value * value,
                Fill::MeanMagnitude => value.abs(),
            };
            sums[lane] += if is_counted { term } else { 0.0 };
            count += u32::from(is_counted);
        }
    }
    if count == 0 {
        return 0.0;
    }
    let mean = sums.iter().sum::<f64>() / f64::from(count);
    match fill {
        Fill::RootMeanSquare => mean.sqrt() as f32,
        Fill::MeanMagnitude => mean as f32,
    }
}
