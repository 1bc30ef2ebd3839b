//! SparK's rule for one row: which channels are kept, and what the others are recovered from.

use super::MAX_HEAD_DIM;
use super::packing::{Fill, Packing};

/// What of a row is kept, and the magnitude of the rest.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// (head_dim): whether the channel is kept.
    pub(crate) kept: [bool; MAX_HEAD_DIM],
    /// The magnitude.
    pub(crate) fill: f32,
}

impl Selection {
    /// Keeps the `packing.kept` channels of largest magnitude; among equals the lower channel.
    #[inline(always)]
    pub(crate) fn new(row: &[f32], packing: &Packing) -> Self {
        let mut selection = Self { kept: [false; MAX_HEAD_DIM], fill: 0.0 };
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
        let kept = selection.kept;
        selection.fill = mean(row, packing.fill, |channel| !kept[channel]);
        selection
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
