//! Attention over stored rows against f64 over the rows as they are decoded, on every instruction set there is.

use std::ops::Range;

use proptest::prelude::*;
use sparkv_kernels::{
    BLOCK, Fill, Format, GROUP, Isa, KEY_BLOCK, KeptFormat, KvRun, Layout, Packing, Partial, QueryTile, Rows,
    SET, Side, TileScratch, Widths, attend_tile_with, dense, quantize, score_rows,
};

/// Rows of a layout, and what they decode to.
struct Stored {
    layout: Layout,
    bytes: Vec<u8>,
    len: usize,
    decoded: Vec<f32>,
}

impl Stored {
    /// Stores `rows` (n, head_dim); n is a multiple of [`BLOCK`] where the layout quantizes.
    fn new(layout: Layout, rows: &[f32]) -> Self {
        let head_dim = layout.head_dim();
        let len = rows.len() / head_dim;
        // Behind the last row there may be anything that was once written.
        let mut bytes = vec![0x11; layout.bytes(len)];
        if layout.is_quantized() {
            let blocks = rows.chunks(BLOCK * head_dim).zip(bytes.chunks_mut(layout.unit_bytes()));
            blocks.for_each(|(rows, bytes)| quantize(&layout, rows, &[], bytes));
        } else {
            let rows = rows.chunks(head_dim).enumerate();
            rows.for_each(|(index, row)| dense::write_row(&layout, row, &mut bytes, index));
        }
        let mut stored = Self { layout, bytes, len, decoded: Vec::new() };
        stored.decoded = stored.rows().decode();
        stored
    }

    fn rows(&self) -> Rows<'_> {
        Rows::new(self.layout, &self.bytes, self.len)
    }
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The products of a query with rows, in f64.
fn scores(query: &[f32], keys: &[f64]) -> Vec<f64> {
    let product = |key: &[f64]| key.iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum();
    keys.chunks(query.len()).map(product).collect()
}

/// Attention by `scores` over the values that are visible, in f64.
fn reference(scores: &[f64], values: &[f64], head_dim: usize, visible: &Range<usize>) -> Vec<f64> {
    let scores = &scores[visible.clone()];
    let values = &values[visible.start * head_dim..visible.end * head_dim];
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; head_dim];
    for (weight, value) in weights.iter().zip(values.chunks(head_dim)) {
        out.iter_mut().zip(value).for_each(|(out, v)| *out += weight / total * v);
    }
    out
}

/// Whether queries are rounded to whole numbers before they meet keys of this format.
fn rounds_queries(isa: Isa, format: Format, head_dim: usize) -> bool {
    let multiplies_integers = matches!(isa.name(), "avx2" | "avx512" | "dotprod");
    multiplies_integers
        && match format {
            Format::Int8 | Format::Planes(_) => true,
            Format::Packed(packing) => packing.values == KeptFormat::Int8 && head_dim.is_multiple_of(16),
            Format::F32 | Format::F16 => false,
        }
}

/// A query in multiples of a 127th of its largest channel.
fn rounded(query: &[f32]) -> Vec<f32> {
    let scale = query.iter().fold(0f32, |largest, value| value.abs().max(largest)) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let code = |value: &f32| (value * inverse).round_ties_even() as i32 as i8;
    query.iter().map(|value| f32::from(code(value)) * scale).collect()
}

/// The formats, and how far attention over them may be from f64 over what they decode to. Where kernels
/// multiply integers, weights are rounded to a 254th of the largest in the block; queries are rounded as the kernels do it.
pub(super) fn formats(side: Side, head_dim: usize, ratio: f64) -> Vec<(Format, f64)> {
    let mut formats = vec![(Format::F32, 2e-5), (Format::F16, 2e-5), (Format::Int8, 8e-2)];
    let mut widths: Vec<_> = (2..=6).filter_map(|bits| Widths::uniform(bits, head_dim)).collect();
    if side == Side::Keys {
        let sets = head_dim / SET;
        let of_set = |set: usize| ([6, 5, 4, 3, 2, 0][(set * 6 + 5) / (sets + 5)], SET);
        widths.extend(Widths::allotted(&(0..sets).map(of_set).collect::<Vec<_>>()));
    }
    formats.extend(widths.into_iter().map(|widths| (Format::Planes(widths), 8e-2)));
    for (values, tolerance) in [(KeptFormat::F32, 2e-5), (KeptFormat::Int8, 8e-2)] {
        for fill in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
            let packing = Packing::new(head_dim, ratio, values, fill);
            formats.extend(packing.map(|packing| (Format::Packed(packing), tolerance)));
        }
    }
    formats
}

/// What keys are stored in: without a mean, and times a scale for each channel.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    scales: Vec<f32>,
    mean: Vec<f32>,
}

impl Domain {
    /// Keys (n, head_dim) as they are stored.
    fn enter(&self, keys: &[f32]) -> Vec<f32> {
        let channels = || self.scales.iter().zip(&self.mean);
        let rows = keys.chunks(self.scales.len());
        rows.flat_map(|key| key.iter().zip(channels()).map(|(k, (scale, mean))| (k - mean) * scale)).collect()
    }

    /// Queries (n, head_dim) that meet such keys, and what is to be added to their scores.
    fn meet(&self, queries: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rows = || queries.chunks(self.scales.len());
        let product = |query: &[f32]| query.iter().zip(&self.mean).map(|(q, mean)| q * mean).sum();
        (
            rows().flat_map(|query| query.iter().zip(&self.scales).map(|(q, scale)| q / scale)).collect(),
            rows().map(product).collect(),
        )
    }
}

fn domains(head_dim: usize, scales: Range<f32>) -> impl Strategy<Value = Domain> {
    let mean = prop::collection::vec(-1f32..1.0, head_dim);
    (prop::collection::vec(scales, head_dim), mean).prop_map(|(scales, mean)| Domain { scales, mean })
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) head_dim: usize,
    pub(super) ratio: f64,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    pub(super) queries: Vec<f32>,
    /// Blocks that are quantized; the other rows are dense.
    pub(super) blocks: usize,
    pub(super) visible: Vec<Range<usize>>,
    /// What the keys of these blocks are stored in, if it is not what they are.
    pub(super) domain: Option<Domain>,
}

fn cases() -> impl Strategy<Value = Case> {
    let head_dims = prop::sample::select(vec![8usize, 24, 64, 80, 96, 128, 256]);
    (head_dims, 1usize..200, 1usize..11, 0.05f64..0.97).prop_flat_map(|(head_dim, tokens, queries, ratio)| {
        let rows = |n: usize, x: f32| prop::collection::vec(-x..x, n * head_dim);
        let visible = prop_oneof![
            3 => Just(0..tokens),
            2 => (0..tokens, 0..=tokens).prop_map(|(a, b)| a.min(b)..a.max(b)),
        ];
        (
            rows(tokens, 2.0),
            rows(tokens, 2.0),
            rows(queries, 6.0 / (head_dim as f32).sqrt()),
            0..=tokens / BLOCK,
            prop::collection::vec(visible, queries),
            prop::option::of(domains(head_dim, 0.5..2.0)),
        )
            .prop_map(move |(keys, values, queries, blocks, visible, domain)| Case {
                head_dim,
                ratio,
                keys,
                values,
                queries,
                blocks,
                visible,
                domain,
            })
    })
}

/// What attention gives, and what it should.
pub(super) fn attend(isa: Isa, case: &Case, keys: Format, values: Format) -> (Vec<f32>, Vec<f64>) {
    let head_dim = case.head_dim;
    let layout = |side, format| Layout::new(side, head_dim, format).unwrap();
    let quantized = case.blocks * BLOCK * head_dim;
    let store = |side, format, quantized: &[f32], dense: &[f32]| {
        // With nothing between two others.
        [
            Stored::new(layout(side, format), quantized),
            Stored::new(layout(side, Format::F32), &[]),
            Stored::new(layout(side, Format::F32), dense),
        ]
    };
    let (first, last) = case.keys.split_at(quantized);
    let entered = case.domain.as_ref().map(|domain| domain.enter(first));
    let keys = store(Side::Keys, keys, entered.as_deref().unwrap_or(first), last);
    let (first, last) = case.values.split_at(quantized);
    let values = store(Side::Values, values, first, last);
    let scaled = [case.domain.is_some(), false, false];
    let runs: Vec<KvRun<'_>> = keys
        .iter()
        .zip(&values)
        .zip(scaled)
        .map(|((k, v), scaled)| KvRun { keys: k.rows(), values: v.rows(), scaled })
        .collect();
    let out = attend_runs(isa, case, &runs, KEY_BLOCK * 2);
    let decoded = |stored: &[Stored]| stored.iter().flat_map(|s| to_f64(&s.decoded)).collect::<Vec<_>>();
    let values = decoded(&values);
    let (stored, dense) = (to_f64(&keys[0].decoded), decoded(&keys[1..]));
    let (met, offsets) = match &case.domain {
        Some(domain) => domain.meet(&case.queries),
        None => (case.queries.clone(), vec![0.0; case.visible.len()]),
    };
    let rounds = rounds_queries(isa, keys[0].layout.format(), head_dim);
    let queries = case.queries.chunks(head_dim).zip(met.chunks(head_dim)).zip(&offsets);
    let expected = queries
        .zip(&case.visible)
        .flat_map(|(((query, met), offset), visible)| {
            let met = if rounds { rounded(met) } else { met.to_vec() };
            let quantized = scores(&met, &stored).into_iter().map(|score| score + f64::from(*offset));
            let all: Vec<f64> = quantized.chain(scores(query, &dense)).collect();
            reference(&all, &values, head_dim, visible)
        })
        .collect();
    (out, expected)
}

fn attend_runs(isa: Isa, case: &Case, runs: &[KvRun<'_>], part: usize) -> Vec<f32> {
    let (scaled_queries, scaled_offsets) =
        case.domain.as_ref().map(|domain| domain.meet(&case.queries)).unwrap_or_default();
    let tile = QueryTile {
        head_dim: case.head_dim,
        queries: &case.queries,
        scaled_queries: &scaled_queries,
        scaled_offsets: &scaled_offsets,
        visible: &case.visible,
    };
    let mut scratch = TileScratch::default();
    let tokens = case.keys.len() / case.head_dim;
    let mut parts = (0..tokens)
        .step_by(part)
        .map(|start| attend_tile_with(isa, &tile, runs, start..start + part, &mut scratch));
    let mut all: Partial = parts.next().unwrap();
    parts.for_each(|partial| all.merge(&partial));
    all.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_over_stored_rows_equals_f64_over_decoded_ones(case in cases()) {
        for isa in Isa::available() {
            for (keys, key_tolerance) in formats(Side::Keys, case.head_dim, case.ratio) {
                for (values, value_tolerance) in formats(Side::Values, case.head_dim, case.ratio) {
                    let (out, expected) = attend(isa, &case, keys, values);
                    let tolerance = f64::max(key_tolerance, value_tolerance);
                    for (out, expected) in out.iter().zip(&expected) {
                        prop_assert!(
                            (f64::from(*out) - expected).abs() < tolerance,
                            "{out} for {expected}: {}, {keys:?}, {values:?}", isa.name()
                        );
                    }
                }
            }
        }
    }

    /// What keys are stored in makes no difference to what attention gives over the keys as they were.
    #[test]
    fn attention_over_scaled_and_centred_keys_equals_f64_over_the_originals(
        (case, domain) in cases().prop_flat_map(|case| (Just(case.clone()), domains(case.head_dim, 0.05..20.0))),
    ) {
        let case = Case { domain: Some(domain), ..case };
        let (keys, values) = (to_f64(&case.keys), to_f64(&case.values));
        for isa in Isa::available() {
            let (out, _) = attend(isa, &case, Format::F32, Format::F32);
            let queries = case.queries.chunks(case.head_dim).zip(&case.visible);
            for ((query, visible), out) in queries.zip(out.chunks(case.head_dim)) {
                let expected = reference(&scores(query, &keys), &values, case.head_dim, visible);
                for (out, expected) in out.iter().zip(expected) {
                    let off = (f64::from(*out) - expected).abs();
                    prop_assert!(off < 1e-4, "{out} for {expected}: {}", isa.name());
                }
            }
        }
    }

    /// Bit for bit: neither the other queries nor the borders of runs matter.
    #[test]
    fn a_query_alone_over_one_run_gives_the_same(case in cases(), split in 0usize..8) {
        let layout = |side| Layout::new(side, case.head_dim, Format::F16).unwrap();
        let store = |side, rows: &[f32]| Stored::new(layout(side), rows);
        let all = (store(Side::Keys, &case.keys), store(Side::Values, &case.values));
        let split = (split * GROUP * case.head_dim).min(case.keys.len() / (GROUP * case.head_dim) * GROUP * case.head_dim);
        let parts = [
            (store(Side::Keys, &case.keys[..split]), store(Side::Values, &case.values[..split])),
            (store(Side::Keys, &case.keys[split..]), store(Side::Values, &case.values[split..])),
        ];
        let run = |(k, v)| { let (k, v): (&Stored, &Stored) = (k, v); KvRun { keys: k.rows(), values: v.rows(), scaled: false } };
        for isa in Isa::available() {
            let together = attend_runs(isa, &case, &[run((&all.0, &all.1))], KEY_BLOCK);
            let runs = [run((&parts[0].0, &parts[0].1)), run((&parts[1].0, &parts[1].1))];
            for (index, (query, visible)) in case.queries.chunks(case.head_dim).zip(&case.visible).enumerate() {
                let alone = Case { queries: query.to_vec(), visible: vec![visible.clone()], ..case.clone() };
                let alone = attend_runs(isa, &alone, &runs, KEY_BLOCK);
                prop_assert_eq!(&alone[..], &together[index * case.head_dim..][..case.head_dim]);
            }
        }
    }

    #[test]
    fn scores_are_products(case in cases()) {
        let layout = Layout::new(Side::Keys, case.head_dim, Format::F16).unwrap();
        let keys = Stored::new(layout, &case.keys);
        let queries = case.queries.len() / case.head_dim;
        let mut scores = vec![f32::NAN; queries * keys.len];
        score_rows(&case.queries, &keys.rows(), &mut scores, &mut TileScratch::default());
        for (query, scores) in case.queries.chunks(case.head_dim).zip(scores.chunks(keys.len)) {
            for (key, score) in keys.decoded.chunks(case.head_dim).zip(scores) {
                let expected: f64 = key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                prop_assert!((f64::from(*score) - expected).abs() < 1e-4);
            }
        }
    }
}
