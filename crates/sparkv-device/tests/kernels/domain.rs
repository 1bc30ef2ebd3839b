//! Domains of rows, as a cache settles them and as the CPU brings rows into them.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sparkv_device::{KeyDomain, Tables};
use sparkv_kernels::elementwise::rotate_hadamard;
use sparkv_kernels::{Format, Layout, SET, Side, Widths};

/// The domain of one KV head; tables that it does not have are empty.
#[derive(Debug)]
pub(crate) struct Domain {
    keys: KeyDomain,
    key_mean: Vec<f32>,
    key_factors: Vec<f32>,
    pub(crate) key_weights: Vec<f32>,
    value_mean: Vec<f32>,
    order: Vec<u16>,
    widths: Option<Widths>,
}

impl Domain {
    /// Where keys have bits of their own, `pairs` pairs of them for all sets of channels.
    pub(crate) fn random(rng: &mut ChaCha8Rng, tables: &Tables, head_dim: usize, pairs: usize) -> Self {
        let allotted = tables.keys == KeyDomain::Allotted;
        let mut numbers = |is_there: bool, low: f32, high: f32| -> Vec<f32> {
            (0..if is_there { head_dim } else { 0 }).map(|_| rng.random_range(low..high)).collect()
        };
        let key_mean = numbers(
            !matches!(tables.keys, KeyDomain::Plain | KeyDomain::Scaled { centered: false }),
            -50.0,
            50.0,
        );
        let scaled = matches!(tables.keys, KeyDomain::Scaled { .. });
        let mut key_factors = numbers(scaled || allotted, 0.01, 3.0);
        let key_weights = numbers(allotted, 0.0, 1.0);
        let value_mean = numbers(tables.values_rotated, -5.0, 5.0);
        let (mut order, mut widths) = (Vec::new(), None);
        if allotted {
            let mut bits = vec![0u8; head_dim / SET];
            for _ in 0..pairs {
                let open: Vec<usize> = (0..bits.len()).filter(|set| bits[*set] < 6).collect();
                bits[open[rng.random_range(0..open.len())]] += 2;
            }
            bits.sort_by_key(|bits| std::cmp::Reverse(*bits));
            let sets: Vec<_> = bits.iter().map(|bits| (*bits, SET)).collect();
            widths = Widths::allotted(&sets);
            order = (0..head_dim as u16).collect();
            order.shuffle(rng);
            let stored = widths.unwrap().stored();
            key_factors[stored..].fill(0.0);
        }
        Self { keys: tables.keys, key_mean, key_factors, key_weights, value_mean, order, widths }
    }

    /// Keys as they come, of as many bits, whose errors count differently.
    pub(crate) fn of_weights(key_weights: Vec<f32>, bits: u8) -> Self {
        let head_dim = key_weights.len();
        Self {
            keys: KeyDomain::Allotted,
            key_mean: vec![0.0; head_dim],
            key_factors: vec![1.0; head_dim],
            key_weights,
            value_mean: Vec::new(),
            order: (0..head_dim as u16).collect(),
            widths: Widths::uniform(bits, head_dim),
        }
    }

    /// The head's tables.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let numbers = [&self.key_mean, &self.key_factors, &self.key_weights, &self.value_mean];
        let mut bytes: Vec<u8> =
            numbers.into_iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        for (place, channel) in self.order.iter().enumerate() {
            let bits = u16::from(self.widths.unwrap().bits_at(place));
            bytes.extend((channel | bits << 12).to_le_bytes());
        }
        bytes
    }

    /// `layout`, with the bits that channels have here.
    pub(crate) fn layout(&self, layout: Layout) -> Layout {
        match self.widths {
            Some(widths) if layout.side() == Side::Keys => {
                Layout::new(Side::Keys, layout.head_dim(), Format::Planes(widths)).unwrap()
            }
            _ => layout,
        }
    }

    /// Brings a row (head_dim) into the domain.
    pub(crate) fn apply(&self, side: Side, row: &mut [f32]) {
        let mean = if side == Side::Keys { &self.key_mean } else { &self.value_mean };
        row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
        match (side, self.keys) {
            (Side::Keys, KeyDomain::Plain) => {}
            (Side::Keys, KeyDomain::Scaled { .. }) => {
                row.iter_mut().zip(&self.key_factors).for_each(|(value, factor)| *value *= factor);
            }
            (Side::Keys, KeyDomain::Rotated) => rotate_hadamard(row, row.len()),
            (Side::Keys, KeyDomain::Allotted) => {
                let centred = row.to_vec();
                let places = self.order.iter().zip(&self.key_factors);
                for (value, (channel, half_step)) in row.iter_mut().zip(places) {
                    let inverse = if *half_step > 0.0 { 1.0 / half_step } else { 0.0 };
                    *value = centred[usize::from(*channel)] * inverse;
                }
            }
            (Side::Values, _) if mean.is_empty() => {}
            (Side::Values, _) => rotate_hadamard(row, row.len()),
        }
    }
}
