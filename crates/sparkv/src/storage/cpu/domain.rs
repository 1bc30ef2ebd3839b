//! Rows, queries and sums of values brought into the domains of quantized rows and back.

use sparkv_kernels::Partial;
use sparkv_kernels::elementwise::rotate_hadamard;

use crate::plan::KeyDomain;
use crate::storage::domain::{Domains, Settled};

impl Domains {
    /// Brings keys and values (tokens, head_dim) into their domains.
    pub(super) fn apply(&self, keys: &mut [f32], values: &mut [f32]) {
        let Some(settled) = self.settled() else { return };
        settled.apply_to_keys(keys);
        if settled.rotates_values() {
            subtract(values, &settled.value_mean);
            rotate_hadamard(values, settled.value_mean.len());
        }
    }

    /// (head_dim): what the squared errors of keys' channels cost, where it is not all the same.
    pub(super) fn key_weights(&self) -> &[f32] {
        self.settled().map_or(&[], |settled| &settled.key_weights)
    }

    /// Whether keys are in a domain of their own.
    pub(super) fn scales_queries(&self) -> bool {
        self.settled().is_some_and(|settled| settled.key_domain != KeyDomain::Plain)
    }

    /// Appends to `scaled` the `query` (head_dim) as keys want it, and to `offsets` what their scores lack of those of keys
    /// as they were, where they are in a domain of their own.
    pub(super) fn scale_query(&self, query: &[f32], scaled: &mut Vec<f32>, offsets: &mut Vec<f32>) {
        let Some(settled) = self.settled() else { return };
        match settled.key_domain {
            KeyDomain::Plain => {}
            KeyDomain::Scaled { .. } => {
                scaled.extend(query.iter().zip(&settled.key_factors).map(|(q, factor)| q / factor));
            }
            KeyDomain::Rotated => {
                let start = scaled.len();
                scaled.extend(query);
                rotate_hadamard(&mut scaled[start..], query.len());
            }
            KeyDomain::Allotted { .. } => {
                scaled.extend(settled.places().map(|(channel, half_step)| query[channel] * half_step));
            }
        }
        // A constant on all keys does not change a softmax: it only has to be known for the scores of dense keys to go
        // with those of quantized ones.
        let mean = &settled.key_mean;
        if !mean.is_empty() {
            offsets.push(query.iter().zip(mean).map(|(q, mean)| q * mean).sum::<f32>());
        }
    }

    /// Whether values are in a domain of their own.
    pub(super) fn restores_values(&self) -> bool {
        self.settled().is_some_and(Settled::rotates_values)
    }

    /// Brings attention over quantized rows back into the values' own domain.
    pub(super) fn restore(&self, partial: &mut Partial) {
        if let Some(settled) = self.settled().filter(|settled| settled.rotates_values()) {
            partial.map_sums(|sum, total| restore_rotated(sum, total, &settled.value_mean));
        }
    }

    /// A key (head_dim) that was stored, as it was before.
    #[cfg(test)]
    pub(super) fn restored_key(&self, key: &[f32]) -> Vec<f32> {
        let mut restored = key.to_vec();
        let Some(settled) = self.settled() else { return restored };
        match settled.key_domain {
            KeyDomain::Plain => {}
            KeyDomain::Scaled { .. } => {
                restored.iter_mut().zip(&settled.key_factors).for_each(|(k, factor)| *k /= factor);
                restored.iter_mut().zip(&settled.key_mean).for_each(|(k, mean)| *k += mean);
            }
            KeyDomain::Rotated => restore_rotated(&mut restored, 1.0, &settled.key_mean),
            KeyDomain::Allotted { .. } => {
                restored.copy_from_slice(&settled.key_mean);
                for ((channel, half_step), k) in settled.places().zip(key) {
                    restored[channel] += k * half_step;
                }
            }
        }
        restored
    }

    /// A value (head_dim) that was stored, as it was before.
    #[cfg(test)]
    pub(super) fn restored_value(&self, value: &[f32]) -> Vec<f32> {
        let mut restored = value.to_vec();
        if let Some(settled) = self.settled().filter(|settled| settled.rotates_values()) {
            restore_rotated(&mut restored, 1.0, &settled.value_mean);
        }
        restored
    }
}

impl Settled {
    fn rotates_values(&self) -> bool {
        !self.value_mean.is_empty()
    }

    /// The channel at each place, and half its step.
    fn places(&self) -> impl Iterator<Item = (usize, f32)> {
        self.order
            .iter()
            .zip(&self.key_factors)
            .map(|(channel, half_step)| (usize::from(*channel), *half_step))
    }

    fn apply_to_keys(&self, keys: &mut [f32]) {
        subtract(keys, &self.key_mean);
        match self.key_domain {
            KeyDomain::Plain => {}
            KeyDomain::Scaled { .. } => {
                for key in keys.chunks_exact_mut(self.key_factors.len()) {
                    key.iter_mut().zip(&self.key_factors).for_each(|(key, factor)| *key *= factor);
                }
            }
            KeyDomain::Rotated => rotate_hadamard(keys, self.key_mean.len()),
            KeyDomain::Allotted { .. } => {
                let mut by_channel = vec![0.0; self.order.len()];
                for key in keys.chunks_exact_mut(self.order.len()) {
                    by_channel.copy_from_slice(key);
                    for (value, (channel, half_step)) in key.iter_mut().zip(self.places()) {
                        let inverse = if half_step > 0.0 { 1.0 / half_step } else { 0.0 };
                        *value = by_channel[channel] * inverse;
                    }
                }
            }
        }
    }
}

/// Brings a sum of rotated rows (head_dim) back, each of which was multiplied by a weight; `total`: the weights' sum.
fn restore_rotated(sum: &mut [f32], total: f32, mean: &[f32]) {
    rotate_hadamard(sum, mean.len());
    sum.iter_mut().zip(mean).for_each(|(sum, mean)| *sum += total * mean);
}

/// Subtracts `mean` (head_dim), unless it is empty, of `rows` (tokens, head_dim).
fn subtract(rows: &mut [f32], mean: &[f32]) {
    if mean.is_empty() {
        return;
    }
    for row in rows.chunks_exact_mut(mean.len()) {
        row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
    }
}
