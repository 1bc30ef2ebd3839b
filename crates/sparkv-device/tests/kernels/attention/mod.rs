mod reference;
mod stored;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{
    AttentionMemory, AttentionPlan, AttentionShape, AttentionSpan, Checks, Device, DeviceError, KeyDomain,
    View,
};
use sparkv_kernels::{Fill, Format, KeptFormat, Packing, Widths};

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
            let span =
                AttentionSpan { query, out: query, rows: *rows, end, window: *window, quantized, dense };
            query += rows;
            span
        });
        spans.collect()
    }

    fn attend(&self, device: &Device, spans: &[AttentionSpan<'_>]) -> Result<Vec<f32>, DeviceError> {
        let pool = device.allocate(self.pool.bytes.len())?;
        device.upload(pool.view(), &self.pool.bytes)?;
        let plan = AttentionPlan::new(&self.shape, spans)?;
        let scratch = device.allocate(plan.scratch_bytes())?;
        let out = device.allocate(4 * self.queries.len())?;
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
    for (head_dim, group) in [(8, 1), (40, 3), (64, 4), (128, 7)] {
        for (case, quantized) in quantized(head_dim).into_iter().enumerate() {
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
