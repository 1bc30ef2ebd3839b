//! What is done to rows before they are quantized, and undone when they are attended to.
//!
//! What is done depends on the rows: their mean, how much each channel varies, and what the prompt's queries ask of it. It
//! is settled when the first rows are quantized, and stays. Here is what follows from a few numbers for each channel; whoever
//! holds the rows computes these, and does to the rows what is settled.

use sparkv_kernels::{Format, Layout, SET, Widths, half_step};

use super::allocation::{BitsOfSet, allot};
use crate::plan::{KeyDomain, QuantizePlan};
use crate::pool::{Charge, KvPool};

/// Added to deviations and energies, which may be 0, before something is divided by them.
const TINY: f64 = 1e-9;

/// Channels are scaled by no less than this share of the mean query energy: a channel the window never
/// queried would otherwise be divided by zero.
const ENERGY_FLOOR: f32 = 1e-4;

/// What has to be known of a side's rows; each is more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Wanted {
    Nothing,
    Mean,
    MeanAndDeviation,
}

/// What is known of a side's rows, channel by channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Moments {
    /// (head_dim), or empty where it is not wanted.
    pub(crate) mean: Box<[f32]>,
    /// (head_dim): the root of the mean square of what differs from the mean; or empty where it is not wanted.
    pub(crate) deviation: Box<[f32]>,
}

/// What has to be known of keys, and of values.
pub(crate) fn wanted(quantize: &QuantizePlan) -> [Wanted; 2] {
    let keys = match quantize.key_domain {
        KeyDomain::Plain | KeyDomain::Scaled { centered: false } => Wanted::Nothing,
        KeyDomain::Scaled { centered: true } | KeyDomain::Rotated => Wanted::Mean,
        KeyDomain::Allotted { .. } => Wanted::MeanAndDeviation,
    };
    [keys, if quantize.rotates_values { Wanted::Mean } else { Wanted::Nothing }]
}

/// The domains of a KV head's quantized keys and values.
#[derive(Debug)]
pub(crate) struct Domains {
    /// (head_dim): the energy of the prompt's last queries, until the domains are settled.
    energy: Option<Box<[f32]>>,
    settled: Option<Settled>,
    /// What is held once the domains are settled.
    charge: Charge,
}

/// Domains that are settled. The product of a key with a query that the inverse was done to is the same.
#[derive(Debug)]
pub(crate) struct Settled {
    /// What is done to keys:
    /// - scaled, (k - mean) * factor channel by channel;
    /// - rotated, k - mean, rotated (see [`sparkv_kernels::elementwise::rotate_hadamard`]);
    /// - allotted, (k - mean) / factor, by places: channels in the order of their bits.
    pub(crate) key_domain: KeyDomain,
    /// (head_dim), or empty where nothing is subtracted.
    pub(crate) key_mean: Box<[f32]>,
    /// (head_dim) or empty; of scaled keys sqrt(n), of allotted ones half a step of the channel at each place, 0 for those
    /// without bits.
    pub(crate) key_factors: Box<[f32]>,
    /// (head_dim) or empty; of allotted keys, the channel at each place. Its bits are what [`Settled::key_layout`] says of
    /// the place.
    pub(crate) order: Box<[u16]>,
    /// (head_dim): what the squared error at each place costs, in the units that are stored; empty where it is all the same.
    pub(crate) key_weights: Box<[f32]>,
    /// How keys are stored: with the bits that the channels of these have.
    pub(crate) key_layout: Layout,
    /// (head_dim): of values, which are then rotated without it; empty where they are stored as they are.
    pub(crate) value_mean: Box<[f32]>,
}

impl Domains {
    /// Nothing settled yet. `energy` (head_dim) of the prompt's last queries, where keys' domain depends on it: the root of
    /// their summed squares, or any multiple of it.
    pub(crate) fn new(quantize: &QuantizePlan, energy: Option<Vec<f32>>, pool: &KvPool) -> Self {
        let charge = pool.charge(quantize.domain_bytes());
        Self { energy: energy.map(Vec::into_boxed_slice), settled: None, charge }
    }

    /// Bytes that are or will be held.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes() as usize
    }

    /// What is done to rows, once it is settled.
    pub(crate) fn settled(&self) -> Option<&Settled> {
        self.settled.as_ref()
    }

    /// How keys are stored: with the bits that the channels of these have.
    pub(crate) fn key_layout(&self, quantize: &QuantizePlan) -> Layout {
        self.settled().map_or(quantize.keys, |settled| settled.key_layout)
    }

    /// Settles them by what is known of keys and of values: what is [`wanted`].
    pub(crate) fn settle(&mut self, quantize: &QuantizePlan, [keys, values]: [Moments; 2]) {
        let energy = self.energy.take();
        let energy = energy.unwrap_or_else(|| vec![1.0; quantize.keys.head_dim()].into());
        let mut settled = Settled {
            key_domain: quantize.key_domain,
            key_mean: keys.mean,
            key_factors: Box::default(),
            order: Box::default(),
            key_weights: Box::default(),
            key_layout: quantize.keys,
            value_mean: values.mean,
        };
        match quantize.key_domain {
            KeyDomain::Plain | KeyDomain::Rotated => {}
            KeyDomain::Scaled { .. } => settled.key_factors = key_scaling(energy),
            KeyDomain::Allotted { bits } => settled.allot(bits, &keys.deviation, &energy),
        }
        self.settled = Some(settled);
    }
}

impl Settled {
    /// Shares out `bits` a channel on average, by the `deviation` of the keys' channels and the `energy` of queries (head_dim
    /// each).
    fn allot(&mut self, bits: u8, deviation: &[f32], energy: &[f32]) {
        let deviations: Vec<f64> = deviation.iter().map(|deviation| f64::from(*deviation) + TINY).collect();
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
        self.order = sets.iter().flat_map(|set| set.channels).collect();
        self.key_factors = places().map(|place| half_step(place) as f32).collect();
        self.key_weights = places().map(|place| (weight(place) / largest) as f32).collect();
        self.key_layout = layout_of(&sets, &self.key_layout).unwrap_or(self.key_layout);
    }
}

/// `layout` with the bits of `sets`.
fn layout_of(sets: &[BitsOfSet], layout: &Layout) -> Option<Layout> {
    let widths: Vec<(u8, usize)> = sets.iter().map(|set| (set.bits, SET)).collect();
    let format = Format::Planes(Widths::allotted(&widths)?);
    Layout::new(layout.side(), layout.head_dim(), format).ok()
}

/// The factor on key channels in the scaled domain, sqrt(n), from the query energy n (head_dim).
///
/// Selection and recovery do not change if n is multiplied by a constant, so n is first divided by its
/// mean: scaled keys keep the range of keys, and fit f16.
fn key_scaling(mut energy: Box<[f32]>) -> Box<[f32]> {
    let mean = energy.iter().sum::<f32>() / energy.len() as f32;
    for n in &mut energy {
        *n = if mean > 0.0 && mean.is_finite() { (*n / mean).max(ENERGY_FLOOR).sqrt() } else { 1.0 };
    }
    energy
}

#[cfg(test)]
mod tests {
    use sparkv_kernels::half_step;

    use super::*;
    use crate::plan::CachePlan;
    use crate::settings::testing::settings;
    use crate::shape::{AttentionConfig, KvShape};

    fn plan(json: &str, head_dim: usize) -> QuantizePlan {
        let attention =
            AttentionConfig { query_heads: 1, kv_heads: 1, head_dim, scale: 1.0, sliding_window: None };
        CachePlan::new(KvShape { layers: 1, attention }, &settings(json), 1000).unwrap().quantize.unwrap()
    }

    #[test]
    fn scaling_survives_energies_of_zero() {
        assert_eq!(*key_scaling([0.0; 8].into()), [1.0; 8]);
        assert_eq!(*key_scaling([2.0, 0.0].into()), [2f32.sqrt(), ENERGY_FLOOR.sqrt()]);
    }

    #[test]
    fn no_more_is_wanted_than_is_used() {
        use Wanted::{Mean, MeanAndDeviation, Nothing};
        for (json, expected) in [
            (r#"{"precision": "int8"}"#, [Nothing, Nothing]),
            (r#"{"precision": "int4", "allocation": "uniform"}"#, [Mean, Mean]),
            (r#"{"precision": "int4", "allocation": "query"}"#, [MeanAndDeviation, Mean]),
            (r#"{"pruning": {"key_ratio": 0.5}}"#, [Nothing, Nothing]),
            (r#"{"pruning": {"key_ratio": 0.5, "center_keys": true}}"#, [Mean, Nothing]),
        ] {
            assert_eq!(wanted(&plan(json, 64)), expected, "{json}");
        }
    }

    /// Channels by what they cost, with the steps of their deviations, weighed by what is asked of them.
    #[test]
    fn allotted_keys_have_bits_where_errors_cost() {
        let quantize = plan(r#"{"precision": "int2", "allocation": "query"}"#, 64);
        let pool = KvPool::default();
        // Of each eight channels that follow one another, the first varies most; the last eight are asked most of.
        let deviation: Box<[f32]> = (0..64).map(|channel| 0.5f32.powi(channel % 8)).collect();
        let energy = (0..64).map(|channel| if channel < 56 { 1.0 } else { 1000.0 }).collect();
        let mut domains = Domains::new(&quantize, Some(energy), &pool);
        let keys = Moments { mean: (0..64).map(|channel| channel as f32).collect(), deviation };
        domains.settle(&quantize, [keys.clone(), Moments { mean: [3.0; 64].into(), ..Moments::default() }]);
        let settled = domains.settled().unwrap();
        assert_eq!(settled.key_mean, keys.mean);
        assert_eq!(*settled.value_mean, [3.0; 64]);
        assert_eq!(settled.order[..8], [56, 57, 58, 59, 60, 61, 62, 63]);
        let mut channels = settled.order.to_vec();
        channels.sort_unstable();
        assert_eq!(channels, (0..64).collect::<Vec<_>>());
        let Format::Planes(widths) = settled.key_layout.format() else { panic!("{settled:?}") };
        let bits: Vec<u8> = (0..64).map(|place| widths.bits_at(place)).collect();
        assert_eq!((bits[0], bits[63]), (6, 0));
        assert_eq!(bits.iter().map(|bits| usize::from(*bits)).sum::<usize>(), 2 * 64);
        for (place, bits) in bits.into_iter().enumerate() {
            let channel = usize::from(settled.order[place]);
            let factor = keys.deviation[channel] * half_step(bits);
            let off = (settled.key_factors[place] - factor).abs();
            assert!(off <= 1e-6 * factor, "{place}: {} for {factor}", settled.key_factors[place]);
            let energy = if channel < 56 { 1.0 } else { 1000.0 };
            let weight = (energy * factor / (1000.0 * settled.key_factors[0])).powi(2);
            let off = (settled.key_weights[place] - weight).abs();
            assert!(off <= 1e-5 * weight, "{place}: {} for {weight}", settled.key_weights[place]);
        }
    }
}
