use half::f16;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{Run, Units};
use sparkv_device::{Device, DeviceError, Mass, Memory, Observation, Observed, Prompt};
use sparkv_device::{RowPlace, View, append, mass, mass_scratch_bytes};
use sparkv_kernels::{Format, Layout, Side};

use crate::support::{dense_units, device, lines};

/// A prompt, and queries that look at it.
struct Case {
    units: Units,
    /// (tokens, heads * head_dim), as they are stored.
    keys: Vec<f32>,
    values: Vec<f32>,
    pool: Memory,
    runs: Vec<Run>,
    /// Query heads of a KV head.
    group: usize,
    /// (slots, heads * group * head_dim)
    queries: Vec<f32>,
    positions: Vec<Observation>,
}

/// What a case is like.
struct Shape {
    head_dim: usize,
    heads: usize,
    group: usize,
    /// Of keys and values.
    formats: [Format; 2],
    tokens: usize,
    positions: usize,
    /// Of the largest scores, about.
    scores: f32,
}

impl Case {
    fn new(device: &Device, rng: &mut ChaCha8Rng, shape: Shape) -> Self {
        let Shape { head_dim, heads, group, formats, tokens, positions, scores } = shape;
        let units = Units {
            keys: Layout::new(Side::Keys, head_dim, formats[0]).unwrap(),
            values: Layout::new(Side::Values, head_dim, formats[1]).unwrap(),
            heads,
        };
        // In quarters: products are exact, and so are their sums while they are small.
        let mut quarters = |count: usize, largest: f32| -> Vec<f32> {
            let largest = (4.0 * largest).round().max(1.0) as i32;
            (0..count).map(|_| rng.random_range(-largest..=largest) as f32 / 4.0).collect()
        };
        let keys = quarters(tokens * heads * head_dim, 2.0);
        let values = quarters(tokens * heads * head_dim, 3.0);
        let slots = positions + 3;
        let queries = quarters(slots * heads * group * head_dim, scores / (head_dim as f32).sqrt());
        let mut used: Vec<u32> = (0..slots as u32).collect();
        used.shuffle(rng);
        used.truncate(positions);
        let positions: Vec<Observation> = used
            .into_iter()
            .map(|slot| {
                let seen = if rng.random() { tokens } else { rng.random_range(1..=tokens) };
                Observation { slot, seen: seen as u32 }
            })
            .collect();
        let runs = runs(rng, &units, tokens);
        let end = runs.iter().map(|run| run.line + lines(&units, run.rows as usize)).max().unwrap_or(0);
        let pool = device.allocate(end as usize * 32).unwrap();
        // What is behind the last row must not be seen.
        device.upload(pool.view(), &f16::NAN.to_le_bytes().repeat(end as usize * 16)).unwrap();
        let case = Self { units, keys, values, pool, runs, group, queries, positions };
        case.store(device);
        case
    }

    /// Writes the rows to the pool.
    fn store(&self, device: &Device) {
        let place = |run: &Run| {
            let line = run.line;
            (0..run.rows).map(move |row| RowPlace { line, row })
        };
        let places: Vec<RowPlace> = self.runs.iter().flat_map(place).collect();
        let rows = [&self.keys, &self.values].map(|rows| View::of_host(rows));
        append(device, &self.units, self.pool.view(), rows, &places).unwrap();
    }

    fn prompt(&self) -> Prompt<'_> {
        Prompt { units: &self.units, pool: self.pool.view(), runs: &self.runs }
    }

    fn observed(&self) -> Observed<'_> {
        Observed {
            queries: View::of_host(&self.queries),
            query_heads: self.units.heads * self.group,
            positions: &self.positions,
        }
    }

    fn tokens(&self) -> usize {
        self.keys.len() / (self.units.heads * self.units.keys.head_dim())
    }

    fn scratch(&self) -> Vec<f32> {
        let queries = self.positions.len() * self.units.heads * self.group;
        vec![f32::NAN; mass_scratch_bytes(self.tokens(), queries) / 4]
    }

    fn found(&self, device: &Device, what: Mass) -> Vec<f32> {
        let mut scratch = self.scratch();
        let mut masses = vec![f32::NAN; self.units.heads * self.tokens()];
        let views = [View::of_host_mut(&mut scratch), View::of_host_mut(&mut masses)];
        mass(device, what, self.prompt(), self.observed(), views[0], views[1]).unwrap();
        masses
    }

    /// By the definition, in f64.
    fn expected(&self, what: Mass) -> Vec<f64> {
        let (heads, head_dim, tokens) = (self.units.heads, self.units.keys.head_dim(), self.tokens());
        let mut masses = vec![0f64; heads * tokens];
        for (head, masses) in masses.chunks_exact_mut(tokens).enumerate() {
            let row = |rows: &[f32], token: usize| -> Vec<f64> {
                let start = (token * heads + head) * head_dim;
                rows[start..start + head_dim].iter().map(|x| f64::from(*x)).collect()
            };
            for of in &self.positions {
                for index in 0..self.group {
                    let start = ((of.slot as usize * heads + head) * self.group + index) * head_dim;
                    let query = &self.queries[start..start + head_dim];
                    let score = |token| -> f64 {
                        query.iter().zip(row(&self.keys, token)).map(|(q, k)| f64::from(*q) * k).sum()
                    };
                    let scores: Vec<f64> = (0..of.seen as usize).map(score).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                    for (mass, score) in masses.iter_mut().zip(&scores) {
                        *mass += (score - max).exp() / sum;
                    }
                }
            }
            if what == Mass::Contribution {
                for (token, mass) in masses.iter_mut().enumerate() {
                    *mass *= row(&self.values, token).iter().map(|v| v * v).sum::<f64>().sqrt();
                }
            }
        }
        masses
    }
}

/// Runs of whole units, and the rest, in any order of lines and with room between them.
fn runs(rng: &mut ChaCha8Rng, units: &Units, tokens: usize) -> Vec<Run> {
    let mut rows = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let some = left.min(16 * rng.random_range(1..=(tokens / 40).max(2)));
        rows.push(some);
        left -= some;
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(rng);
    let mut found = vec![Run { line: 0, rows: 0 }; rows.len()];
    let mut line = 0;
    for index in order {
        line += rng.random_range(0..4);
        found[index] = Run { line, rows: rows[index] as u32 };
        line += lines(units, rows[index]);
    }
    found
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off <= 1e-5 * expected.abs() + 1e-12, "{what}: {index}: {found} is not {expected}");
    }
}

#[test]
fn attention_of_some_queries_is_summed() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (case, (head_dim, heads, group, tokens, positions)) in [
        (8, 1, 1, 1, 1),
        (8, 2, 3, 64, 3),
        (8, 3, 4, 65, 9),
        (64, 2, 3, 33, 2),
        (64, 1, 4, 129, 5),
        (128, 3, 1, 70, 8),
        (40, 1, 3, 15, 3),
        (8, 2, 1, 2048, 3),
        (8, 2, 3, 2049, 4),
        (8, 3, 1, 4200, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        for scores in [3.0, 60.0] {
            let formats = [0, 1].map(|_| if rng.random() { Format::F16 } else { Format::F32 });
            let shape = Shape { head_dim, heads, group, formats, tokens, positions, scores };
            let case = Case::new(&device, &mut rng, shape);
            for what in [Mass::Attention, Mass::Contribution] {
                let name = format!("{tokens} tokens of {heads} heads of {head_dim}, {what:?}, {scores}");
                assert_close(&case.found(&device, what), &case.expected(what), &name);
            }
        }
    }
}

/// All scores are far below zero, where no weight would be left of them but for the largest.
#[test]
fn only_differences_of_scores_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let Some(device) = device(0) else { return };
    let shape = Shape {
        head_dim: 8,
        heads: 2,
        group: 1,
        formats: [Format::F32; 2],
        tokens: 70,
        positions: 4,
        scores: 1.0,
    };
    let mut case = Case::new(&device, &mut rng, shape);
    // One channel of all keys is the same, so that it adds as much to all of a query's scores.
    for (token, key) in case.keys.chunks_exact_mut(8).enumerate() {
        key[3] = 2.0;
        key[4] = token as f32 / 64.0;
    }
    case.store(&device);
    for query in case.queries.chunks_exact_mut(8) {
        query[3] = -120.0;
    }
    let expected = case.expected(Mass::Attention);
    assert!(expected.iter().all(|mass| mass.is_finite()));
    assert_close(&case.found(&device, Mass::Attention), &expected, "scores far below zero");
}

#[test]
fn masses_are_the_same_whatever_the_order_of_lanes() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let Some(first) = device(0) else { return };
    let shape = Shape {
        head_dim: 8,
        heads: 2,
        group: 3,
        formats: [Format::F16; 2],
        tokens: 300,
        positions: 7,
        scores: 5.0,
    };
    let case = Case::new(&first, &mut rng, shape);
    let found = case.found(&first, Mass::Attention);
    for seed in 1..4 {
        let Some(device) = device(100 * seed) else { return };
        assert_eq!(case.found(&device, Mass::Attention), found);
    }
}

#[test]
fn without_queries_there_is_no_mass() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let Some(device) = device(0) else { return };
    let shape = Shape {
        head_dim: 8,
        heads: 2,
        group: 1,
        formats: [Format::F16; 2],
        tokens: 20,
        positions: 0,
        scores: 1.0,
    };
    let case = Case::new(&device, &mut rng, shape);
    assert_eq!(case.found(&device, Mass::Contribution), [0.0; 40]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let Some(device) = device(0) else { return };
    let shape = Shape {
        head_dim: 8,
        heads: 2,
        group: 2,
        formats: [Format::F16; 2],
        tokens: 40,
        positions: 2,
        scores: 1.0,
    };
    let case = Case::new(&device, &mut rng, shape);
    let (mut scratch, mut masses) = (case.scratch(), vec![0f32; 80]);
    let (mut less_scratch, mut less) = (scratch[1..].to_vec(), vec![0f32; 79]);
    let short = View::of_host_mut(&mut less_scratch);
    let less = View::of_host_mut(&mut less);
    let (scratch, out) = (View::of_host_mut(&mut scratch), View::of_host_mut(&mut masses));
    let run = |prompt: Prompt<'_>, observed: Observed<'_>, scratch: View<'_>, out: View<'_>| {
        mass(&device, Mass::Attention, prompt, observed, scratch, out)
    };
    let refused = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Unfit { .. }));
    let (prompt, observed) = (case.prompt(), case.observed());
    run(prompt, observed, scratch, out).unwrap();
    assert!(refused(run(prompt, observed, short, out)));
    assert!(refused(run(prompt, observed, scratch.read_only(), out)));
    assert!(refused(run(prompt, observed, scratch, out.read_only())));
    assert!(refused(run(prompt, observed, scratch, less)));

    let runs = [Run { line: 0, rows: 15 }, Run { line: 0, rows: 25 }];
    assert!(refused(run(Prompt { runs: &runs, ..prompt }, observed, scratch, out)));
    let runs = [Run { line: 1 << 20, rows: 40 }];
    assert!(refused(run(Prompt { runs: &runs, ..prompt }, observed, scratch, out)));
    let quantized = dense_units(8, 2, Format::Int8);
    assert!(refused(run(Prompt { units: &quantized, ..prompt }, observed, scratch, out)));

    let seen = |slot, seen| [Observation { slot, seen }];
    for positions in [seen(0, 0), seen(0, 41), seen(5, 1)] {
        assert!(refused(run(prompt, Observed { positions: &positions, ..observed }, scratch, out)));
    }
    for query_heads in [0, 3] {
        assert!(refused(run(prompt, Observed { query_heads, ..observed }, scratch, out)));
    }
}
