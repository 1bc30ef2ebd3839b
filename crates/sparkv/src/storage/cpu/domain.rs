//! What is done to rows before they are quantized, and undone when they are attended to.
//!
//! What is done depends on the rows: their mean, how much each channel varies, and what the prompt's queries ask of it. It
//! is settled when the first rows are quantized, and stays.

use sparkv_kernels::elementwise::rotate_hadamard;
use sparkv_kernels::{Format, Layout, Partial, SET, Widths, half_step};

use super::allocation::allot;
use super::kv_rows::KvRows;
use super::row_store::RowStore;
use super::window::key_scaling;
use crate::plan::{KeyDomain, QuantizePlan};
use crate::pool::{Charge, KvPool};

/// Added to deviations and energies, which may be 0, before something is divided by them.
const TINY: f64 = 1e-9;

/// The domains of a KV head's quantized keys and values.
#[derive(Debug)]
pub(super) struct Domains {
    /// (head_dim): the energy of the prompt's last queries, until the domains are settled.
    energy: Option<Box<[f32]>>,
    settled: Option<Settled>,
    /// What is held once the domains are settled.
    charge: Charge,
}

#[derive(Debug)]
struct Settled {
    keys: Keys,
    values: Option<Rotated>,
}

/// The domain of keys. The product with a query that the inverse was done to is the same.
#[derive(Debug)]
enum Keys {
    Plain,
    Scaled(Scaled),
    Rotated(Rotated),
    Allotted(Allotted),
}

/// Keys that are multiplied channel by channel: (k - mean) * scaling.
#[derive(Debug)]
struct Scaled {
    /// (head_dim): sqrt(n), by which keys are multiplied and queries divided.
    scaling: Box<[f32]>,
    /// (head_dim)
    mean: Option<Box<[f32]>>,
}

/// Rows without their mean, rotated ([`rotate_hadamard`]).
#[derive(Debug)]
struct Rotated {
    /// (head_dim)
    mean: Box<[f32]>,
}

/// Keys without their mean, whose channels are in the order of their bits, in half steps of their own.
#[derive(Debug)]
struct Allotted {
    /// (head_dim)
    mean: Box<[f32]>,
    /// (head_dim): the channel at each place.
    order: Box<[u16]>,
    /// (head_dim): half a step of the channel at each place; 0 for those without bits.
    half_steps: Box<[f32]>,
    /// (head_dim): what a squared error costs, in half steps.
    weights: Box<[f32]>,
    layout: Layout,
}

impl Domains {
    /// Nothing settled yet. `energy` (head_dim) of the prompt's last queries, where keys' domain depends on it.
    pub(super) fn new(quantize: &QuantizePlan, energy: Option<Vec<f32>>, pool: &KvPool) -> Self {
        let charge = pool.charge(quantize.domain_bytes());
        Self { energy: energy.map(Vec::into_boxed_slice), settled: None, charge }
    }

    /// Bytes that are or will be held.
    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes() as usize
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Settles them by the tokens `indices` of `rows`.
    pub(super) fn settle(&mut self, quantize: &QuantizePlan, rows: &KvRows, indices: &[usize]) {
        let head_dim = quantize.keys.head_dim();
        let energy = self.energy.take().unwrap_or_else(|| vec![1.0; head_dim].into());
        let mean = |store: &RowStore| Moments::new(store, indices, head_dim).mean();
        let keys = match quantize.key_domain {
            KeyDomain::Plain => Keys::Plain,
            KeyDomain::Scaled { centered } => Keys::Scaled(Scaled {
                scaling: key_scaling(energy.into_vec()),
                mean: centered.then(|| mean(&rows.keys)),
            }),
            KeyDomain::Rotated => Keys::Rotated(Rotated { mean: mean(&rows.keys) }),
            KeyDomain::Allotted { bits } => {
                let moments = Moments::new(&rows.keys, indices, head_dim);
                Keys::Allotted(Allotted::new(&quantize.keys, bits, &moments, &energy))
            }
        };
        let values = quantize.rotates_values.then(|| Rotated { mean: mean(&rows.values) });
        self.settled = Some(Settled { keys, values });
    }

    /// How keys are stored where `layout` is what the plan says: with the bits that the channels of these have.
    pub(super) fn key_layout(&self, layout: Layout) -> Layout {
        match &self.settled {
            Some(Settled { keys: Keys::Allotted(allotted), .. }) => allotted.layout,
            _ => layout,
        }
    }

    /// (head_dim): what the squared errors of keys' channels cost, where it is not all the same.
    pub(super) fn key_weights(&self) -> &[f32] {
        match &self.settled {
            Some(Settled { keys: Keys::Allotted(allotted), .. }) => &allotted.weights,
            _ => &[],
        }
    }

    /// Brings keys and values (tokens, head_dim) into their domains.
    pub(super) fn apply(&self, keys: &mut [f32], values: &mut [f32]) {
        let Some(settled) = &self.settled else { return };
        match &settled.keys {
            Keys::Plain => {}
            Keys::Scaled(scaled) => scaled.apply(keys),
            Keys::Rotated(rotated) => rotated.apply(keys),
            Keys::Allotted(allotted) => allotted.apply(keys),
        }
        if let Some(rotated) = &settled.values {
            rotated.apply(values);
        }
    }

    /// Whether keys are in a domain of their own.
    pub(super) fn scales_queries(&self) -> bool {
        self.settled.as_ref().is_some_and(|settled| !matches!(settled.keys, Keys::Plain))
    }

    /// Appends to `scaled` the `query` (head_dim) as keys want it, and to `offsets` what their scores lack of those of keys
    /// as they were, where they are in a domain of their own.
    pub(super) fn scale_query(&self, query: &[f32], scaled: &mut Vec<f32>, offsets: &mut Vec<f32>) {
        let Some(settled) = &self.settled else { return };
        let mean = match &settled.keys {
            Keys::Plain => None,
            Keys::Scaled(Scaled { scaling, mean }) => {
                scaled.extend(query.iter().zip(scaling).map(|(q, factor)| q / factor));
                mean.as_deref()
            }
            Keys::Rotated(Rotated { mean }) => {
                let start = scaled.len();
                scaled.extend(query);
                rotate_hadamard(&mut scaled[start..], query.len());
                Some(&**mean)
            }
            Keys::Allotted(allotted) => {
                let places = allotted.order.iter().zip(&allotted.half_steps);
                scaled.extend(places.map(|(channel, half_step)| query[usize::from(*channel)] * half_step));
                Some(&*allotted.mean)
            }
        };
        // A constant on all keys does not change a softmax: it only has to be known for the scores of dense keys to go
        // with those of quantized ones.
        offsets.extend(mean.map(|mean| query.iter().zip(mean).map(|(q, mean)| q * mean).sum::<f32>()));
    }

    /// Whether values are in a domain of their own.
    pub(super) fn restores_values(&self) -> bool {
        self.settled.as_ref().is_some_and(|settled| settled.values.is_some())
    }

    /// Brings attention over quantized rows back into the values' own domain.
    pub(super) fn restore(&self, partial: &mut Partial) {
        if let Some(rotated) = self.settled.as_ref().and_then(|settled| settled.values.as_ref()) {
            partial.map_sums(|sum, total| rotated.restore(sum, total));
        }
    }

    /// A key (head_dim) that was stored, as it was before.
    #[cfg(test)]
    pub(super) fn restored_key(&self, key: &[f32]) -> Vec<f32> {
        let mut restored = key.to_vec();
        match self.settled.as_ref().map(|settled| &settled.keys) {
            None | Some(Keys::Plain) => {}
            Some(Keys::Scaled(scaled)) => {
                restored.iter_mut().zip(&scaled.scaling).for_each(|(k, factor)| *k /= factor);
                restored.iter_mut().zip(scaled.mean.iter().flatten()).for_each(|(k, mean)| *k += mean);
            }
            Some(Keys::Rotated(rotated)) => rotated.restore(&mut restored, 1.0),
            Some(Keys::Allotted(allotted)) => {
                restored.copy_from_slice(&allotted.mean);
                for ((channel, half_step), k) in allotted.order.iter().zip(&allotted.half_steps).zip(key) {
                    restored[usize::from(*channel)] += k * half_step;
                }
            }
        }
        restored
    }

    /// A value (head_dim) that was stored, as it was before.
    #[cfg(test)]
    pub(super) fn restored_value(&self, value: &[f32]) -> Vec<f32> {
        let mut restored = value.to_vec();
        if let Some(rotated) = self.settled.as_ref().and_then(|settled| settled.values.as_ref()) {
            rotated.restore(&mut restored, 1.0);
        }
        restored
    }
}

impl Scaled {
    fn apply(&self, keys: &mut [f32]) {
        if let Some(mean) = &self.mean {
            subtract(keys, mean);
        }
        for key in keys.chunks_exact_mut(self.scaling.len()) {
            key.iter_mut().zip(&self.scaling).for_each(|(key, factor)| *key *= factor);
        }
    }
}

impl Rotated {
    fn apply(&self, rows: &mut [f32]) {
        subtract(rows, &self.mean);
        rotate_hadamard(rows, self.mean.len());
    }

    /// Brings a sum of rows (head_dim) back, each of which was multiplied by a weight; `total`: the weights' sum.
    fn restore(&self, sum: &mut [f32], total: f32) {
        rotate_hadamard(sum, self.mean.len());
        sum.iter_mut().zip(&self.mean).for_each(|(sum, mean)| *sum += total * mean);
    }
}

impl Allotted {
    /// For keys of `layout` with `bits` on average, by what is known of their channels and the `energy` (head_dim) of
    /// queries: the root of their mean square, whatever the unit.
    fn new(layout: &Layout, bits: u8, moments: &Moments, energy: &[f32]) -> Self {
        let deviations: Vec<f64> = moments.deviations().map(|deviation| deviation + TINY).collect();
        let squares: Vec<f64> = energy.iter().map(|root| f64::from(*root).powi(2) + TINY).collect();
        let costs: Vec<f64> =
            deviations.iter().zip(&squares).map(|(deviation, square)| deviation.powi(2) * square).collect();
        let sets = allot(&costs, bits);
        let places = || {
            sets.iter().flat_map(|set| set.channels.iter().map(|channel| (set.bits, usize::from(*channel))))
        };
        let half_step = |(bits, channel): (u8, usize)| deviations[channel] * f64::from(half_step(bits));
        // All alike in what only their ratios count for: numbers of a usual size.
        let weight = |place: (u8, usize)| squares[place.1] * half_step(place).powi(2);
        let largest = places().map(weight).fold(f64::MIN_POSITIVE, f64::max);
        let widths: Vec<(u8, usize)> = sets.iter().map(|set| (set.bits, SET)).collect();
        let allotted = Widths::allotted(&widths)
            .and_then(|widths| Layout::new(layout.side(), layout.head_dim(), Format::Planes(widths)).ok());
        Self {
            mean: moments.mean(),
            order: sets.iter().flat_map(|set| set.channels).collect(),
            half_steps: places().map(|place| half_step(place) as f32).collect(),
            weights: places().map(|place| (weight(place) / largest) as f32).collect(),
            layout: allotted.unwrap_or(*layout),
        }
    }

    fn apply(&self, keys: &mut [f32]) {
        let mut key_before = vec![0.0; self.mean.len()];
        for key in keys.chunks_exact_mut(self.mean.len()) {
            key_before.copy_from_slice(key);
            let places = self.order.iter().zip(&self.half_steps);
            for (value, (channel, half_step)) in key.iter_mut().zip(places) {
                let channel = usize::from(*channel);
                let inverse = if *half_step > 0.0 { 1.0 / half_step } else { 0.0 };
                *value = (key_before[channel] - self.mean[channel]) * inverse;
            }
        }
    }
}

fn subtract(rows: &mut [f32], mean: &[f32]) {
    for row in rows.chunks_exact_mut(mean.len()) {
        row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
    }
}

/// Sums over rows, channel by channel.
struct Moments {
    rows: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn new(store: &RowStore, indices: &[usize], head_dim: usize) -> Self {
        let mut moments = Self {
            rows: indices.len().max(1) as f64,
            sums: vec![0.0; head_dim],
            squares: vec![0.0; head_dim],
        };
        let mut reader = store.reader();
        for &index in indices {
            let sums = moments.sums.iter_mut().zip(&mut moments.squares);
            for ((sum, squares), value) in sums.zip(reader.row(index)) {
                *sum += f64::from(*value);
                *squares += f64::from(*value).powi(2);
            }
        }
        moments
    }

    fn mean(&self) -> Box<[f32]> {
        self.sums.iter().map(|sum| (sum / self.rows) as f32).collect()
    }

    fn deviations(&self) -> impl Iterator<Item = f64> {
        let channels = self.sums.iter().zip(&self.squares);
        channels.map(|(sum, squares)| (squares / self.rows - (sum / self.rows).powi(2)).max(0.0).sqrt())
    }
}
