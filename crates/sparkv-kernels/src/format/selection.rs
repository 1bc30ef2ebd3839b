//! SparK's rule for one row: which channels are kept, and what the others are recovered from.

use super::MAX_HEAD_DIM;
use super::packing::{Fill, Packing};
use super::quantized::largest_magnitude;

/// What of a row is kept, and the magnitude of the rest.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// (head_dim): whether the channel is kept.
    pub(crate) kept: [bool; MAX_HEAD_DIM],
    /// The magnitude.
    pub(crate) fill: f32,
    /// The largest magnitude of the row, which is among the kept.
    pub(crate) largest: f32,
}

impl Selection {
    /// Keeps the `packing.kept` channels of largest magnitude; among equals the lower channel.
    #[inline(always)]
    pub(crate) fn new(row: &[f32], packing: &Packing) -> Self {
        let mut selection = Self { kept: [false; MAX_HEAD_DIM], fill: 0.0, largest: largest_magnitude(row) };
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
        selection.fill = mean(row, packing.fill, selection.largest, |channel| !kept[channel]);
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

/// The mean over the channels that are `counted`, as `fill` says; 0 if none is. `largest`: magnitude of `row`.
///
/// In f32, so that it is the same to the bit in vectors and on other devices: each magnitude is multiplied by
/// [`normalizer`]; there is a partial sum for each remainder of the channel by 8, which takes the channels in order; the
/// partial sums are added in order; their mean (or its root) is divided by the normalizer, and is the largest magnitude
/// where rounding made it more.
#[inline(always)]
fn mean(row: &[f32], fill: Fill, largest: f32, counted: impl Fn(usize) -> bool) -> f32 {
    let normalizer = normalizer(largest);
    let mut sums = [0f32; 8];
    let mut count = 0u32;
    for (eight, values) in row.as_chunks::<8>().0.iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            let is_counted = counted(8 * eight + lane);
            let value = value.abs() * normalizer;
            let term = match fill {
                Fill::RootMeanSquare => value * value,
                Fill::MeanMagnitude => value,
            };
            sums[lane] += if is_counted { term } else { 0.0 };
            count += u32::from(is_counted);
        }
    }
    if count == 0 {
        return 0.0;
    }
    let mean = sums.iter().sum::<f32>() / count as f32;
    let normalized = match fill {
        Fill::RootMeanSquare => mean.sqrt(),
        Fill::MeanMagnitude => mean,
    };
    (normalized / normalizer).min(largest)
}

/// A power of two that brings a row to the order of 1: it changes no digit, and squares neither overflow nor vanish beside
/// the `largest` magnitude.
#[inline(always)]
pub(crate) fn normalizer(largest: f32) -> f32 {
    // 2^-n, where the largest is from 2^n to 2^(n + 1); of the smallest and the largest numbers, the nearest that there is.
    let exponent = largest.to_bits() >> 23;
    f32::from_bits((254 - exponent.min(253)) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::KeptFormat;

    fn fill(row: &[f32], fill: Fill) -> f32 {
        Selection::new(row, &Packing { kept: 16, values: KeptFormat::Int8, fill }).fill
    }

    /// From where squares would vanish to where sums would overflow.
    #[test]
    fn the_magnitude_goes_with_the_size_of_rows() {
        let row: Vec<f32> = (0..72).map(|i| ((i * 7919) % 101) as f32 / 60.0 - 0.8).collect();
        for kind in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
            let usual = fill(&row, kind);
            assert!(0.2 < usual && usual < 0.5, "{usual}");
            for exponent in -118..=127 {
                let size = 2f32.powi(exponent);
                let sized: Vec<f32> = row.iter().map(|value| value * size).collect();
                assert_eq!(fill(&sized, kind), usual * size, "{exponent}");
            }
        }
    }

    #[test]
    fn the_magnitude_is_no_larger_than_the_largest() {
        for value in [0.0, 1e-45, 1e-40, f32::MIN_POSITIVE, 0.1, 1e30, f32::MAX] {
            for kind in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
                let found = fill(&[value; 72], kind);
                assert!(found <= value && found >= value * (1.0 - 1e-6), "{found} for {value}");
            }
        }
    }
}
