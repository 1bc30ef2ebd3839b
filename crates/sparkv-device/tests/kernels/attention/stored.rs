//! Sequences in a pool: random rows in random domains, and what is known of them.

use half::f16;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{LINE, Run, Units};
use sparkv_device::{KeyDomain, StoredRows, Tables};
use sparkv_kernels::{BLOCK, Format, GROUP, Layout, Rows, SET, Side, Widths, block, dense, half_step};

/// What a sequence is to be stored as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) dense: Format,
    /// Formats of keys and values, and their domains.
    pub(super) quantized: Option<([Format; 2], KeyDomain, bool)>,
    pub(super) quantized_rows: usize,
    pub(super) dense_rows: usize,
    /// The largest element; magnitudes of rows vary below it.
    pub(super) largest: f32,
}

/// One KV head's rows as they are read back, and its tables.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Keys and values (rows, head_dim): quantized ones (in their domains), and dense ones.
    pub(super) quantized: [Vec<f32>; 2],
    pub(super) dense: [Vec<f32>; 2],
    /// (rows): the scales of quantized rows; empty where that side is dense.
    pub(super) scales: [Vec<f32>; 2],
    /// Of each (head_dim), or empty.
    pub(super) key_mean: Vec<f32>,
    pub(super) key_factors: Vec<f32>,
    pub(super) value_mean: Vec<f32>,
    /// (head_dim): the channel at each place.
    pub(super) places: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) kind: Kind,
    pub(super) heads: Vec<Head>,
    quantized: Option<(Units, Tables)>,
    quantized_runs: Vec<Run>,
    dense: Units,
    dense_runs: Vec<Run>,
}

/// Memory that is filled from the front, with gaps.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) bytes: Vec<u8>,
}

impl Pool {
    /// The first of enough lines for `bytes` bytes, which hold what is no number.
    fn reserve(&mut self, bytes: usize, rng: &mut ChaCha8Rng) -> u32 {
        let line = self.bytes.len() / LINE + rng.random_range(0..3);
        self.bytes.resize((line + bytes.div_ceil(LINE)) * LINE, 0xff);
        line as u32
    }
}

impl Sequence {
    pub(super) fn new(kind: Kind, pool: &mut Pool, rng: &mut ChaCha8Rng) -> Self {
        let mut heads: Vec<Head> = (0..kind.heads).map(|_| Head::default()).collect();
        let layout = |side, format| Layout::new(side, kind.head_dim, format).unwrap();
        let units = |[keys, values]: [Format; 2]| Units {
            keys: layout(Side::Keys, keys),
            values: layout(Side::Values, values),
            heads: kind.heads,
        };
        let (mut quantized, mut quantized_runs) = (None, Vec::new());
        if let Some((formats, keys, values_rotated)) = kind.quantized {
            let units = units(formats);
            let mut tables = Tables { line: 0, keys, values_rotated };
            tables.line = pool.reserve(tables.head_bytes(kind.head_dim) * kind.heads, rng);
            let layouts: Vec<[Layout; 2]> = heads
                .iter_mut()
                .enumerate()
                .map(|(index, head)| {
                    let at = tables.line as usize * LINE + index * tables.head_bytes(kind.head_dim);
                    let keys = head.settle(&tables, &units.keys, &mut pool.bytes[at..], rng);
                    [keys, units.values]
                })
                .collect();
            quantized_runs = store(pool, &units, kind.quantized_rows, rng, |pool, at, _, index, rng| {
                heads[index].add(&layouts[index], BLOCK, kind.largest, &mut pool.bytes[at..], rng);
            });
            quantized = Some((units, tables));
        }
        let dense = units([kind.dense; 2]);
        let layouts = [dense.keys, dense.values];
        let dense_runs = store(pool, &dense, kind.dense_rows, rng, |pool, at, rows, index, rng| {
            heads[index].add(&layouts, rows, kind.largest, &mut pool.bytes[at..], rng);
        });
        Self { kind, heads, quantized, quantized_runs, dense, dense_runs }
    }

    pub(super) fn quantized(&self) -> Option<(StoredRows<'_>, Tables)> {
        self.quantized.map(|(units, tables)| (StoredRows { units, runs: &self.quantized_runs }, tables))
    }

    pub(super) fn dense(&self) -> StoredRows<'_> {
        StoredRows { units: self.dense, runs: &self.dense_runs }
    }

    pub(super) fn rows(&self) -> usize {
        self.kind.quantized_rows + self.kind.dense_rows
    }
}

/// Places runs of odd sizes for `rows` rows, and writes each unit of each head: (pool, first byte, rows, head).
fn store(
    pool: &mut Pool,
    units: &Units,
    rows: usize,
    rng: &mut ChaCha8Rng,
    mut write: impl FnMut(&mut Pool, usize, usize, usize, &mut ChaCha8Rng),
) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut rest = rows;
    while rest > 0 {
        let rows = rest.min(units.rows() * rng.random_range(1..6));
        rest -= rows;
        let line = pool.reserve(rows.div_ceil(units.rows()) * units.bytes(), rng);
        for unit in 0..rows.div_ceil(units.rows()) {
            let of_unit = (rows - unit * units.rows()).min(units.rows());
            for head in 0..units.heads {
                write(pool, units.address(line, unit, head, Side::Keys), of_unit, head, rng);
            }
        }
        runs.push(Run { line, rows: rows as u32 });
    }
    runs
}

impl Head {
    /// Draws the tables, writes them to `bytes`, and gives how keys are stored.
    fn settle(&mut self, tables: &Tables, keys: &Layout, bytes: &mut [u8], rng: &mut ChaCha8Rng) -> Layout {
        let head_dim = keys.head_dim();
        let draw = |count: usize, rng: &mut ChaCha8Rng| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
        };
        let mut layout = *keys;
        let (mut weights, mut places) = (Vec::new(), Vec::new());
        match tables.keys {
            KeyDomain::Plain => {}
            KeyDomain::Scaled { centered } => {
                self.key_mean = draw(if centered { head_dim } else { 0 }, rng);
                self.key_factors = (0..head_dim).map(|_| rng.random_range(0.3f32..3.0)).collect();
            }
            KeyDomain::Rotated => self.key_mean = draw(head_dim, rng),
            KeyDomain::Allotted => {
                self.key_mean = draw(head_dim, rng);
                let bits = allot(keys, rng);
                self.places = (0..head_dim).collect();
                self.places.shuffle(rng);
                let widths: Vec<(u8, usize)> = bits.iter().map(|bits| (*bits, SET)).collect();
                layout =
                    Layout::new(Side::Keys, head_dim, Format::Planes(Widths::allotted(&widths).unwrap()))
                        .unwrap();
                assert_eq!(layout.unit_bytes(), keys.unit_bytes());
                for (place, channel) in self.places.iter().enumerate() {
                    let bits = bits[place / SET];
                    self.key_factors.push(half_step(bits) * rng.random_range(0.5f32..2.0));
                    places.push(*channel as u16 | u16::from(bits) << 12);
                }
                weights = vec![1.0; head_dim];
            }
        }
        self.value_mean = draw(if tables.values_rotated { head_dim } else { 0 }, rng);
        let all = [&self.key_mean, &self.key_factors, &weights, &self.value_mean];
        let all: Vec<u8> = all
            .into_iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes())
            .chain(places.iter().flat_map(|place| place.to_le_bytes()))
            .collect();
        assert_eq!(all.len(), tables.head_bytes(head_dim));
        bytes[..all.len()].copy_from_slice(&all);
        layout
    }

    /// Draws rows and writes their keys and values, one behind the other.
    fn add(
        &mut self,
        layouts: &[Layout; 2],
        rows: usize,
        largest: f32,
        bytes: &mut [u8],
        rng: &mut ChaCha8Rng,
    ) {
        let quantized = layouts.iter().any(Layout::is_quantized);
        let mut at = 0;
        for (side, layout) in layouts.iter().enumerate() {
            let head_dim = layout.head_dim();
            let drawn: Vec<f32> = (0..rows)
                .flat_map(|_| {
                    let most = largest * 2f32.powi(-rng.random_range(0..4));
                    (0..head_dim).map(|_| rng.random_range(-most..=most)).collect::<Vec<f32>>()
                })
                .collect();
            let held = layout.bytes(if quantized { BLOCK } else { GROUP });
            let bytes = &mut bytes[at..at + held];
            if layout.is_quantized() {
                block::encode(layout, &drawn, &[], bytes);
                let scales = held - BLOCK * if matches!(layout.format(), Format::Packed(_)) { 3 } else { 2 };
                let scales = bytes[scales..].as_chunks().0.iter().take(BLOCK);
                self.scales[side].extend(scales.map(|bytes| f16::from_le_bytes(*bytes).to_f32()));
            } else {
                drawn
                    .chunks(head_dim)
                    .enumerate()
                    .for_each(|(index, row)| dense::write_row(layout, row, bytes, index));
            }
            let read = Rows::new(*layout, bytes, rows).decode();
            let sides = if quantized { &mut self.quantized } else { &mut self.dense };
            sides[side].extend(read);
            at += held;
        }
    }
}

/// Bits of sets, most first, that take as many bytes as `layout`.
fn allot(layout: &Layout, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let sets = layout.head_dim() / SET;
    let mut pairs = (layout.unit_bytes() - 2 * BLOCK) / (BLOCK * SET / 4);
    let mut bits = vec![0u8; sets];
    while pairs > 0 {
        let set = rng.random_range(0..sets);
        if bits[set] < 6 {
            bits[set] += 2;
            pairs -= 1;
        }
    }
    bits.sort_unstable_by(|a, b| b.cmp(a));
    bits
}
