//! Attention of one query by its definition, in f64: over rows as they decode, or with queries and weights rounded as kernels
//! round them.

use sparkv_device::KeyDomain;
use sparkv_kernels::BLOCK;
use sparkv_kernels::elementwise::rotate_hadamard;

use super::stored::{Head, Sequence};

/// Stored rows of a split.
const SPLIT: usize = 2048;

/// A query, the rows that it sees (quantized and then dense ones), and the head of its rows.
pub(super) struct Query<'a> {
    pub(super) sequence: &'a Sequence,
    pub(super) head: &'a Head,
    /// (head_dim): not yet times the scale.
    pub(super) query: &'a [f32],
    pub(super) scale: f32,
    pub(super) seen: std::ops::Range<usize>,
}

/// max, total, sums
struct Partial(f64, f64, Vec<f64>);

impl Partial {
    fn new(head_dim: usize) -> Self {
        Self(f64::NEG_INFINITY, 0.0, vec![0.0; head_dim])
    }

    fn merge(self, other: &Self) -> Self {
        let max = self.0.max(other.0);
        let weight = |part: f64| if part == f64::NEG_INFINITY { 0.0 } else { (part - max).exp() };
        let (a, b) = (weight(self.0), weight(other.0));
        let sums = self.2.iter().zip(&other.2).map(|(x, y)| x * a + y * b).collect();
        Self(max, self.1 * a + other.1 * b, sums)
    }
}

impl Query<'_> {
    /// Over rows as they were before they were brought into domains and rounded: no rounding of queries and weights.
    pub(super) fn exact(&self) -> Vec<f64> {
        let Self { head, query, .. } = self;
        let head_dim = query.len();
        let border = self.sequence.kind.quantized_rows;
        let mut sum = Partial::new(head_dim);
        for row in self.seen.clone() {
            let at = |rows: &[f32], row: usize| rows[row * head_dim..(row + 1) * head_dim].to_vec();
            let (key, value) = if row < border {
                (
                    self.restored_key(&at(&head.quantized[0], row)),
                    self.restored_value(&at(&head.quantized[1], row)),
                )
            } else {
                (at(&head.dense[0], row - border), at(&head.dense[1], row - border))
            };
            let score: f64 = query.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let value = value.into_iter().map(f64::from).collect();
            sum = sum.merge(&Partial(score * f64::from(self.scale), 1.0, value));
        }
        finish(sum)
    }

    fn restored_key(&self, key: &[f32]) -> Vec<f32> {
        let head = self.head;
        let mut restored = key.to_vec();
        match self.sequence.kind.quantized.map(|(_, domain, _)| domain) {
            None | Some(KeyDomain::Plain) => {}
            Some(KeyDomain::Scaled { .. }) => {
                restored.iter_mut().zip(&head.key_factors).for_each(|(k, f)| *k /= f)
            }
            Some(KeyDomain::Rotated) => rotate_hadamard(&mut restored, key.len()),
            Some(KeyDomain::Allotted) => {
                for ((channel, factor), k) in head.places.iter().zip(&head.key_factors).zip(key) {
                    restored[*channel] = k * factor;
                }
            }
        }
        restored.iter_mut().zip(&head.key_mean).for_each(|(k, mean)| *k += mean);
        restored
    }

    fn restored_value(&self, value: &[f32]) -> Vec<f32> {
        let mut restored = value.to_vec();
        if !self.head.value_mean.is_empty() {
            rotate_hadamard(&mut restored, value.len());
            restored.iter_mut().zip(&self.head.value_mean).for_each(|(v, mean)| *v += mean);
        }
        restored
    }

    /// With queries and weights in 8 bits, by blocks and splits.
    pub(super) fn rounded(&self) -> Vec<f64> {
        let border = self.sequence.kind.quantized_rows;
        let clip = |row: usize| row.min(border);
        let mut quantized = self.part(true, clip(self.seen.start)..clip(self.seen.end));
        if !self.head.value_mean.is_empty() {
            let mut sums: Vec<f32> = quantized.2.iter().map(|sum| *sum as f32).collect();
            rotate_hadamard(&mut sums, self.query.len());
            let total = quantized.1;
            quantized.2 = sums
                .iter()
                .zip(&self.head.value_mean)
                .map(|(s, m)| f64::from(*s) + total * f64::from(*m))
                .collect();
        }
        let dense =
            self.part(false, self.seen.start.saturating_sub(border)..self.seen.end.saturating_sub(border));
        finish(quantized.merge(&dense))
    }

    fn part(&self, quantized: bool, seen: std::ops::Range<usize>) -> Partial {
        let head_dim = self.query.len();
        let (rows, scales) = if quantized {
            (&self.head.quantized, self.head.scales.each_ref().map(|scales| scales.as_slice()))
        } else {
            (&self.head.dense, [&[][..]; 2])
        };
        let query: Vec<f32> = self.query.iter().map(|q| q * self.scale).collect();
        let (domain_query, offset) = self.scaled_query(&query);
        let mut all = Partial::new(head_dim);
        for split in seen.start / SPLIT..seen.end.div_ceil(SPLIT) {
            let (mut largest, mut sum) = (f32::NEG_INFINITY, Partial::new(head_dim));
            let blocks = split * SPLIT / BLOCK..((split + 1) * SPLIT).min(seen.end).div_ceil(BLOCK);
            for block in blocks {
                let of_block = (block * BLOCK).max(seen.start)..((block + 1) * BLOCK).min(seen.end);
                if of_block.is_empty() {
                    continue;
                }
                let scores: Vec<f32> = of_block
                    .clone()
                    .map(|row| {
                        let key = &rows[0][row * head_dim..(row + 1) * head_dim];
                        match scales[0].get(row) {
                            Some(scale) => score_codes(&domain_query, key, *scale, offset),
                            None => score_dense(&query, key),
                        }
                    })
                    .collect();
                let most = scores.iter().copied().fold(largest, f32::max);
                let before = if largest == f32::NEG_INFINITY { 0.0 } else { (largest - most).exp() };
                largest = most;
                let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
                sum.1 = sum.1 * f64::from(before) + weights.iter().copied().map(f64::from).sum::<f64>();
                sum.2.iter_mut().for_each(|sum| *sum *= f64::from(before));
                let rounded = round_weights(&weights, &of_block, scales[1]);
                for (row, weight) in of_block.zip(rounded) {
                    let value = &rows[1][row * head_dim..(row + 1) * head_dim];
                    sum.2.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * f64::from(*value));
                }
            }
            sum.0 = f64::from(largest);
            all = all.merge(&sum);
        }
        all
    }

    /// The query as quantized keys want it, and what their scores lack.
    fn scaled_query(&self, query: &[f32]) -> (Vec<f32>, f32) {
        let head = self.head;
        let offset = if head.key_mean.is_empty() {
            0.0
        } else {
            sum_by_lanes(query.iter().zip(&head.key_mean).map(|(q, mean)| q * mean))
        };
        let scaled = match self.sequence.kind.quantized.map(|(_, domain, _)| domain) {
            None | Some(KeyDomain::Plain) => query.to_vec(),
            Some(KeyDomain::Scaled { .. }) => {
                query.iter().zip(&head.key_factors).map(|(q, f)| q / f).collect()
            }
            Some(KeyDomain::Rotated) => {
                let mut rotated = query.to_vec();
                rotate_hadamard(&mut rotated, query.len());
                rotated
            }
            Some(KeyDomain::Allotted) => {
                head.places.iter().zip(&head.key_factors).map(|(channel, f)| query[*channel] * f).collect()
            }
        };
        (scaled, offset)
    }
}

fn finish(sum: Partial) -> Vec<f64> {
    let inverse = if sum.1 == 0.0 { 1.0 } else { 1.0 / sum.1 };
    sum.2.iter().map(|sum| sum * inverse).collect()
}

/// In the order of a group of lanes, each with every 32nd.
fn sum_by_lanes(values: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 32];
    values.enumerate().for_each(|(index, value)| lanes[index % 32] += value);
    for step in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|lane| lanes[lane] + lanes[lane ^ step]);
    }
    lanes[0]
}

/// The query and the key in whole numbers.
fn score_codes(query: &[f32], key: &[f32], key_scale: f32, offset: f32) -> f32 {
    let scale = query.iter().fold(0f32, |largest, q| largest.max(q.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let whole = |k: &f32| if key_scale == 0.0 { 0.0 } else { (k / key_scale).round() };
    let product: f32 = query.iter().zip(key).map(|(q, k)| (q * inverse).round_ties_even() * whole(k)).sum();
    product * key_scale * scale + offset
}

/// In the order of lanes that have a quarter of the channels each.
fn score_dense(query: &[f32], key: &[f32]) -> f32 {
    let mut quarters = [0f32; 4];
    query
        .iter()
        .zip(key)
        .enumerate()
        .for_each(|(channel, (q, k))| quarters[channel % 4] = k.mul_add(*q, quarters[channel % 4]));
    (quarters[0] + quarters[2]) + (quarters[1] + quarters[3])
}

/// What values are multiplied by, as they decode: of quantized ones, 127ths of the largest weight times scale.
fn round_weights(weights: &[f32], rows: &std::ops::Range<usize>, scales: &[f32]) -> Vec<f64> {
    if scales.is_empty() {
        return weights.iter().copied().map(f64::from).collect();
    }
    let scales = &scales[rows.clone()];
    let scaled: Vec<f32> = weights.iter().zip(scales).map(|(weight, scale)| weight * scale).collect();
    let heaviest = scaled.iter().fold(0f32, |most, weight| most.max(*weight));
    let inverse = if heaviest > 0.0 { 127.0 / heaviest } else { 0.0 };
    scaled
        .iter()
        .zip(scales)
        .map(|(weight, scale)| {
            let whole = f64::from((weight * inverse).round_ties_even()) * f64::from(heaviest / 127.0);
            if *scale == 0.0 { 0.0 } else { whole / f64::from(*scale) }
        })
        .collect()
}
