use super::buffer::Expanded;
use super::prefetch::Prefetch;
use super::quantized::ReadQuantized;
use super::queries::Queries;
use super::weigh::Weighing;
use super::{BlockScores, KEY_BLOCK, PANEL, ScoresAt, WeightsAt};
use crate::format::testing::quantized_formats;
use crate::format::{BLOCK, Format, GROUP, Layout, Rows, Side, dense};
use crate::simd::{Isa, LANES, Task, dispatch};

const HEAD_DIMS: [usize; 8] = [8, 16, 24, 48, 64, 80, 128, 512];

fn formats(side: Side, head_dim: usize) -> Vec<Format> {
    [vec![Format::F32, Format::F16], quantized_formats(side, head_dim, head_dim / 3)].concat()
}

/// Rows as they are stored, and as they decode.
fn store(layout: Layout, len: usize) -> (Vec<u8>, Vec<f32>) {
    let head_dim = layout.head_dim();
    let rows: Vec<f32> = (0..len * head_dim).map(|i| ((i * 7919) % 10007) as f32 / 5000.0 - 1.0).collect();
    let mut bytes = vec![0; layout.bytes(len)];
    if layout.is_quantized() {
        let blocks = rows.chunks(BLOCK * head_dim).zip(bytes.chunks_mut(layout.unit_bytes()));
        blocks.for_each(|(rows, bytes)| crate::quantize(&layout, rows, &[], bytes));
    } else {
        let rows = rows.chunks(head_dim).enumerate();
        rows.for_each(|(index, row)| dense::write_row(&layout, row, &mut bytes, index));
    }
    let decoded = Rows::new(layout, &bytes, len).decode();
    (bytes, decoded)
}

struct Score<'a>(&'a Queries, Rows<'a>, &'a mut [BlockScores]);

impl<S: ReadQuantized> Task<S> for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let mut expanded = Expanded::default();
        expanded.reserve(self.1.layout());
        self.0.score(simd, &self.1, Prefetch::NONE, &mut expanded, ScoresAt { scores: self.2, group: 0 });
    }
}

/// Queries that rounding to whole numbers leaves as they are, so that integer products must be exact, too.
#[test]
fn scores_of_whole_queries_are_exact() {
    for head_dim in HEAD_DIMS {
        let query = |index: usize, channel: usize| ((index + channel * 89) % 255) as f32 - 127.0;
        let queries: Vec<f32> = (0..5 * head_dim)
            .map(|i| if i % head_dim == 1 { -127.0 } else { query(i / head_dim, i % head_dim) })
            .collect();
        for format in formats(Side::Keys, head_dim) {
            let layout = Layout::new(Side::Keys, head_dim, format).unwrap();
            let (bytes, keys) = store(layout, KEY_BLOCK);
            for isa in Isa::available() {
                let mut panels = Queries::default();
                panels.set(isa, &queries, head_dim, true);
                let mut scores = vec![[[f32::NAN; GROUP]; KEY_BLOCK / GROUP]; 2 * PANEL];
                dispatch(isa, Score(&panels, Rows::new(layout, &bytes, KEY_BLOCK), &mut scores));
                for (query, scores) in queries.chunks(head_dim).zip(&scores) {
                    for (key, score) in keys.chunks(head_dim).zip(scores.as_flattened()) {
                        let products = key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q));
                        let expected: f64 = products.clone().sum();
                        let tolerance = 1e-6 * products.map(f64::abs).sum::<f64>();
                        let off = (f64::from(*score) - expected).abs();
                        assert!(off <= tolerance, "{score} for {expected}: {}, {layout:?}", isa.name());
                    }
                }
            }
        }
    }
}

struct Weigh<'a>(&'a [BlockScores], Rows<'a>, &'a mut [[f32; LANES]]);

impl<S: ReadQuantized> Task<S> for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let mut expanded = Expanded::default();
        expanded.reserve(self.1.layout());
        let at = WeightsAt { weights: self.0, group: 0 };
        let (values, expanded) = (&self.1, &mut expanded);
        Weighing { values, prefetch: Prefetch::NONE, expanded, at, sums: self.2 }.add(simd);
    }
}

/// One weight alone is the largest, which is not rounded.
#[test]
fn values_by_one_weight_are_exact() {
    for head_dim in HEAD_DIMS {
        let vectors = head_dim.div_ceil(LANES);
        for format in formats(Side::Values, head_dim) {
            let layout = Layout::new(Side::Values, head_dim, format).unwrap();
            let (bytes, values) = store(layout, KEY_BLOCK);
            // A token for each query.
            let tokens = [0, 13, 31, 32, 77, 127, 96, 50];
            let mut weights = vec![[[0.0; GROUP]; KEY_BLOCK / GROUP]; 2 * PANEL];
            weights.iter_mut().zip(tokens).for_each(|(w, token)| w.as_flattened_mut()[token] = 0.75);
            for isa in Isa::available() {
                let mut sums = vec![[1.0; LANES]; 2 * PANEL * vectors];
                dispatch(isa, Weigh(&weights, Rows::new(layout, &bytes, KEY_BLOCK), &mut sums));
                for (sums, token) in sums.chunks(vectors).zip(tokens) {
                    let row = &values[token * head_dim..][..head_dim];
                    for (sum, value) in sums.as_flattened().iter().zip(row) {
                        let expected = 1.0 + 0.75 * value;
                        let off = (sum - expected).abs();
                        assert!(off < 1e-5, "{sum} for {expected}: {}, {layout:?}", isa.name());
                    }
                }
            }
        }
    }
}
