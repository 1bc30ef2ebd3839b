mod prompt;
mod reference;
mod stored;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{Run, Units};
use sparkv_device::{
    AttentionMemory, AttentionPlan, AttentionShape, AttentionSpan, Checks, Device, DeviceError, KeyDomain,
    StoredRows, Tables, View,
};
use sparkv_kernels::{Fill, Format, KeptFormat, Layout, Packing, Side, Widths};

use crate::support::bytes_of;
use reference::Query;
use stored::{Kind, Pool, Sequence};

/// Queries of a sequence that ends with as many rows as they are.
#[derive(Debug, Clone, Copy)]
struct Asked {
    rows: usize,
    window: Option<usize>,
}

/// Sequences in a pool, and queries.
struct Batch {
    shape: AttentionShape,
    pool: Pool,
    sequences: Vec<(Sequence, Asked)>,
    /// (rows of all, query_heads * head_dim)
    queries: Vec<f32>,
}

impl Batch {
    fn new(group: usize, kinds: &[(Kind, Asked)], rng: &mut ChaCha8Rng) -> Self {
        let Kind { heads, head_dim, .. } = kinds[0].0;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { query_heads: group * heads, kv_heads: heads, head_dim, scale };
        let mut pool = Pool::default();
        let sequences: Vec<_> =
            kinds.iter().map(|(kind, asked)| (Sequence::new(*kind, &mut pool, rng), *asked)).collect();
        let rows: usize = kinds.iter().map(|(_, asked)| asked.rows).sum();
        let queries = (0..rows * group * heads * head_dim).map(|_| rng.random_range(-2.0..2.0)).collect();
        Self { shape, pool, sequences, queries }
    }

    fn row(&self) -> usize {
        self.shape.query_heads * self.shape.head_dim
    }

    /// Each sequence's span.
    fn spans(&self) -> Vec<AttentionSpan<'_>> {
        let mut query = 0;
        let spans = self.sequences.iter().map(|(sequence, Asked { rows, window })| {
            let end = sequence.rows() + 1 - rows;
            let (quantized, dense) = (sequence.quantized(), sequence.dense());
            let span = AttentionSpan {
                query,
                out: query,
                rows: *rows,
                end,
                window: *window,
                quantized,
                dense,
                is_prompt: false,
            };
            query += rows;
            span
        });
        spans.collect()
    }

    fn attend(&self, device: &Device, spans: &[AttentionSpan<'_>]) -> Result<Vec<f32>, DeviceError> {
        let pool = device.allocate(self.pool.bytes.len())?;
        device.upload(pool.view(), &self.pool.bytes)?;
        let plan = AttentionPlan::new(device, &self.shape, spans)?;
        let scratch = device.allocate(plan.scratch_bytes())?;
        let out = device.allocate(4 * self.queries.len())?;
        // What nobody writes is no number.
        for memory in [&scratch, &out] {
            device.upload(memory.view(), &vec![0xff; memory.bytes()])?;
        }
        let memory = AttentionMemory {
            pool: pool.view(),
            queries: View::of_host(&self.queries),
            scratch: scratch.view(),
            out: out.view(),
        };
        plan.launch(device, memory)?;
        Ok(bytes_of(device, &out).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Every query of every head, in the order of the output.
    fn queries(&self) -> Vec<Query<'_>> {
        let AttentionShape { query_heads, kv_heads, head_dim, scale } = self.shape;
        let mut all = Vec::new();
        let mut queries = self.queries.chunks(head_dim);
        for (sequence, Asked { rows, window }) in &self.sequences {
            for row in 0..*rows {
                let end = sequence.rows() - (rows - 1 - row);
                let seen = window.map_or(0, |window| end.saturating_sub(window))..end;
                for query_head in 0..query_heads {
                    let head = &sequence.heads[query_head / (query_heads / kv_heads)];
                    let query = queries.next().unwrap();
                    all.push(Query { sequence, head, query, scale, seen: seen.clone() });
                }
            }
        }
        all
    }

    /// Compares with the rounded reference.
    fn check(&self, device: &Device, what: &str) {
        let out = self.attend(device, &self.spans()).unwrap();
        for (index, (query, out)) in self.queries().iter().zip(out.chunks(self.shape.head_dim)).enumerate() {
            let expected = query.rounded();
            let largest = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
            for (channel, (out, expected)) in out.iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(*out) - expected).abs() <= 1e-5 * largest + 1e-7,
                    "{what}: query {index}, channel {channel}: {out} for {expected}"
                );
            }
        }
    }
}

fn planes(bits: u8, head_dim: usize) -> Format {
    Format::Planes(Widths::uniform(bits, head_dim).unwrap())
}

fn packed(kept: usize, fill: Fill) -> Format {
    Format::Packed(Packing { kept, values: KeptFormat::Int8, fill })
}

/// Keys whose bits are allotted, as even as `bits` on average can be.
fn allotted(bits: u8, head_dim: usize) -> Format {
    let sets = head_dim / 8;
    let pairs = usize::from(bits) * sets / 2;
    let bits = |pairs: usize| 2 * pairs as u8;
    let (each, more) = (pairs / sets, pairs % sets);
    let widths = [(bits(each + 1), 8 * more), (bits(each), 8 * (sets - more))];
    Format::Planes(Widths::allotted(&widths).unwrap())
}

/// Formats of quantized rows, and their domains.
fn quantized(head_dim: usize) -> Vec<([Format; 2], KeyDomain, bool)> {
    let mut all = vec![
        ([Format::Int8, Format::Int8], KeyDomain::Plain, false),
        ([Format::Int8, Format::F16], KeyDomain::Plain, false),
        ([Format::F16, Format::Int8], KeyDomain::Plain, false),
        ([Format::F32, planes(4, head_dim)], KeyDomain::Plain, true),
        ([allotted(4, head_dim), planes(4, head_dim)], KeyDomain::Allotted, true),
        ([allotted(3, head_dim), planes(3, head_dim)], KeyDomain::Allotted, true),
        ([allotted(2, head_dim), planes(2, head_dim)], KeyDomain::Allotted, true),
        (
            [packed(head_dim / 4, Fill::RootMeanSquare), Format::F16],
            KeyDomain::Scaled { centered: false },
            false,
        ),
        (
            [packed(head_dim / 2, Fill::RootMeanSquare), Format::Int8],
            KeyDomain::Scaled { centered: true },
            false,
        ),
        (
            [packed(head_dim / 4, Fill::RootMeanSquare), packed(head_dim / 8, Fill::MeanMagnitude)],
            KeyDomain::Scaled { centered: true },
            false,
        ),
        ([Format::F16, packed(head_dim - 3, Fill::MeanMagnitude)], KeyDomain::Plain, false),
    ];
    for bits in 2..=6 {
        all.push(([planes(bits, head_dim); 2], KeyDomain::Rotated, true));
    }
    all
}

#[test]
fn quantized_rows_are_attended_to_as_rounded() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (head_dim, group) in [(8, 1), (40, 3), (64, 4), (128, 7), (256, 2)] {
        // The larger, the fewer.
        for (case, quantized) in quantized(head_dim).into_iter().enumerate().step_by(1 + head_dim / 128) {
            let Some(device) = Device::simulated(Checks::Races, case as u64) else { return };
            let kind = Kind {
                heads: rng.random_range(1..3),
                head_dim,
                dense: if case % 4 == 0 { Format::F32 } else { Format::F16 },
                quantized: Some(quantized),
                quantized_rows: 32 * rng.random_range(1..5),
                dense_rows: rng.random_range(1..40),
                largest: 3.0,
            };
            let asked = Asked { rows: rng.random_range(1..kind.dense_rows.min(3) + 1), window: None };
            let batch = Batch::new(group, &[(kind, asked)], &mut rng);
            batch.check(&device, &format!("head_dim {head_dim}, group {group}, {quantized:?}"));
        }
    }
}

#[test]
fn dense_rows_are_attended_to() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (case, (head_dim, group)) in
        [(8, 4), (40, 1), (64, 3), (80, 2), (128, 4), (256, 7), (512, 1)].into_iter().enumerate()
    {
        for dense in [Format::F16, Format::F32] {
            let Some(device) = Device::simulated(Checks::Races, case as u64) else { return };
            let kind = Kind {
                heads: rng.random_range(1..3),
                head_dim,
                dense,
                quantized: None,
                quantized_rows: 0,
                dense_rows: rng.random_range(20..130),
                largest: 3.0,
            };
            let window = rng.random_bool(0.5).then(|| rng.random_range(1..80));
            let asked = Asked { rows: rng.random_range(1..7), window };
            let batch = Batch::new(group, &[(kind, asked)], &mut rng);
            batch.check(&device, &format!("head_dim {head_dim}, group {group}, {dense:?}"));
        }
    }
}

/// Against f64 over rows as they were, by the rounding that docs/cache-layout.md allows.
#[test]
fn attention_is_that_over_the_rows_that_are_stored() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (case, quantized) in quantized(64).into_iter().map(Some).chain([None]).enumerate() {
        let Some(device) = Device::simulated(Checks::Races, case as u64) else { return };
        let kind = Kind {
            heads: 2,
            head_dim: 64,
            dense: Format::F16,
            quantized,
            quantized_rows: if quantized.is_some() { 96 } else { 0 },
            dense_rows: 30,
            largest: 2.0,
        };
        let asked = Asked { rows: 2, window: None };
        let batch = Batch::new(4, &[(kind, asked)], &mut rng);
        let out = batch.attend(&device, &batch.spans()).unwrap();
        let allowed = if quantized.is_some() { 0.08 } else { 2e-5 };
        for (query, out) in batch.queries().iter().zip(out.chunks(64)) {
            for (out, expected) in out.iter().zip(query.exact()) {
                assert!((f64::from(*out) - expected).abs() < allowed, "{quantized:?}: {out} for {expected}");
            }
        }
    }
}

/// Sequences of several formats, some with windows; rows of thousands in the last.
fn mixed(head_dim: usize, rng: &mut ChaCha8Rng) -> Batch {
    let kind = |quantized, quantized_rows, dense_rows| Kind {
        heads: 2,
        head_dim,
        dense: Format::F16,
        quantized,
        quantized_rows,
        dense_rows,
        largest: 3.0,
    };
    let formats = quantized(head_dim);
    let asked = |rows, window| Asked { rows, window };
    let kinds = [
        (kind(Some(formats[0]), 64, 33), asked(1, None)),
        (kind(None, 0, 200), asked(40, None)),
        (kind(Some(formats[4]), 96, 20), asked(5, None)),
        (kind(None, 0, 150), asked(6, Some(50))),
        (kind(Some(formats[9]), 32, 7), asked(3, None)),
        (kind(Some(formats[13]), 2048 + 64, 2048 + 40), asked(2, None)),
        (kind(None, 0, 4200), asked(3, Some(2100))),
        // Some tiles see nothing of the first split.
        (kind(None, 0, 2100), asked(24, Some(40))),
    ];
    Batch::new(3, &kinds, rng)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn batches_of_many_formats_and_splits_are_attended_to() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let Some(device) = Device::simulated(Checks::Races, 0) else { return };
    mixed(8, &mut rng).check(&device, "mixed");
}

#[test]
fn results_depend_on_neither_batch_nor_cut_nor_schedule() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let batch = mixed(16, &mut rng);
    let Some(device) = Device::simulated(Checks::Bounds, 0) else { return };
    let spans = batch.spans();
    let all = bits(&batch.attend(&device, &spans).unwrap());
    for seed in 1..3 {
        let Some(device) = Device::simulated(Checks::Bounds, seed) else { return };
        let again = bits(&batch.attend(&device, &spans).unwrap());
        assert!(again == all, "seed {seed}");
    }
    let mut found = vec![0; all.len()];
    for span in &spans {
        let mut first = 0;
        // Pieces of one, two, three, ... positions: tiles of other sizes, and other queries in them.
        for piece in 1.. {
            let rows = (span.rows - first).min(piece);
            if rows == 0 {
                break;
            }
            let part = AttentionSpan {
                query: span.query + first,
                out: span.out + first,
                rows,
                end: span.end + first,
                ..*span
            };
            let out = bits(&batch.attend(&device, &[part]).unwrap());
            let range = part.out * batch.row()..(part.out + rows) * batch.row();
            found[range.clone()].copy_from_slice(&out[range]);
            first += rows;
        }
    }
    assert!(found == all, "spans in pieces");
}

/// A prompt so long that each tile has its splits one after the other.
#[test]
fn splits_are_merged_alike_in_tiles_and_apart() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let Some(device) = Device::simulated(Checks::Bounds, 0) else { return };
    let rows = 2 * 512 * 16 / 8 + 3;
    let kind = Kind {
        heads: 1,
        head_dim: 8,
        dense: Format::F16,
        quantized: None,
        quantized_rows: 0,
        dense_rows: 2100,
        largest: 3.0,
    };
    let batch = Batch::new(4, &[(kind, Asked { rows, window: None })], &mut rng);
    let spans = batch.spans();
    let all = bits(&batch.attend(&device, &spans).unwrap());
    let scratch = |spans: &[_]| AttentionPlan::new(&device, &batch.shape, spans).unwrap().scratch_bytes();
    assert_eq!(scratch(&spans), 4 * rows * 64, "one result for each query");
    let first = rows - 5;
    let last = AttentionSpan { query: first, out: first, rows: 5, end: spans[0].end + first, ..spans[0] };
    assert_eq!(scratch(&[last]), 2 * 4 * 5 * 64, "a result for each split");
    let apart = bits(&batch.attend(&device, &[last]).unwrap());
    assert!(apart[first * batch.row()..] == all[first * batch.row()..]);
}

#[test]
fn who_sees_nothing_gets_zeros_and_what_is_no_number_shows() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for quantized in [None, Some(quantized(64)[4])] {
        let Some(device) = Device::simulated(Checks::Races, 0) else { return };
        let kind = Kind {
            heads: 1,
            head_dim: 64,
            dense: Format::F16,
            quantized,
            quantized_rows: if quantized.is_some() { 64 } else { 0 },
            dense_rows: 20,
            largest: 3.0,
        };
        let mut batch = Batch::new(2, &[(kind, Asked { rows: 3, window: None })], &mut rng);
        batch.queries[128 + 7] = f32::NAN;
        let spans = [AttentionSpan { end: 0, ..batch.spans()[0] }];
        let out = batch.attend(&device, &spans).unwrap();
        assert!(out[..128].iter().all(|value| *value == 0.0), "no row");
        assert!(out[128..192].iter().all(|value| value.is_nan()), "a query that is no number");
        assert!(out[192..].iter().all(|value| value.is_finite()), "the others");
        let spans = [AttentionSpan { window: Some(0), ..batch.spans()[0] }];
        assert!(batch.attend(&device, &spans).unwrap().iter().all(|value| *value == 0.0), "a window of none");
        assert!(
            batch.attend(&device, &[]).unwrap().iter().all(|value| value.is_nan()),
            "no span: left as it was"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let Some(device) = Device::simulated(Checks::Races, 0) else { return };
    let kind = Kind {
        heads: 1,
        head_dim: 64,
        dense: Format::F16,
        quantized: Some(quantized(64)[5]),
        quantized_rows: 64,
        dense_rows: 20,
        largest: 3.0,
    };
    let batch = Batch::new(2, &[(kind, Asked { rows: 2, window: None })], &mut rng);
    let span = batch.spans()[0];
    let refused = |what: &str, span: AttentionSpan<'_>| {
        assert!(batch.attend(&device, &[span]).is_err(), "{what}");
    };
    assert!(batch.attend(&device, &[span]).is_ok());
    refused("sees more than is stored", AttentionSpan { end: span.end + 1, ..span });
    refused("queries that are not there", AttentionSpan { query: 1, ..span });
    refused("output that is not there", AttentionSpan { out: 1, ..span });
    refused("sums that overflow", AttentionSpan { query: usize::MAX, ..span });
    let (rows, tables) = span.quantized.unwrap();
    refused("dense rows that are quantized", AttentionSpan { dense: rows, ..span });
    refused("quantized rows that are dense", AttentionSpan { quantized: Some((span.dense, tables)), ..span });
    let plain = Tables { keys: KeyDomain::Plain, ..tables };
    refused("widths without places", AttentionSpan { quantized: Some((rows, plain)), ..span });
    let far = Tables { line: u32::MAX, ..tables };
    refused("tables outside of the pool", AttentionSpan { quantized: Some((rows, far)), ..span });
    let runs = [Run { line: 0, rows: 33 }, Run { line: 0, rows: 31 }];
    let broken = StoredRows { runs: &runs, ..rows };
    refused("blocks that are not whole", AttentionSpan { quantized: Some((broken, tables)), ..span });
    let runs = [Run { line: u32::MAX, rows: 64 }];
    let outside = StoredRows { runs: &runs, ..rows };
    refused("runs outside of the pool", AttentionSpan { quantized: Some((outside, tables)), ..span });
    let others = StoredRows { units: Units { heads: 2, ..span.dense.units }, ..span.dense };
    refused("other heads", AttentionSpan { dense: others, ..span });
    let exact = Format::Packed(Packing { kept: 16, values: KeptFormat::F32, fill: Fill::MeanMagnitude });
    let keys = Layout::new(Side::Keys, 64, exact).unwrap();
    let exact = StoredRows { units: Units { keys, ..rows.units }, ..rows };
    refused("packed f32", AttentionSpan { quantized: Some((exact, plain)), ..span });
    let plan = AttentionPlan::new(&device, &batch.shape, &[span]).unwrap();
    let small = device.allocate(plan.scratch_bytes() - 4).unwrap();
    let pool = View::of_host(&batch.pool.bytes);
    let out = device.allocate(4 * batch.queries.len()).unwrap();
    let memory = AttentionMemory {
        pool,
        queries: View::of_host(&batch.queries),
        scratch: small.view(),
        out: out.view(),
    };
    assert!(plan.launch(&device, memory).is_err(), "too little scratch memory");
}
