//! Attention of one token of each sequence over its stored rows, in every storage of the cache: seconds, bytes of rows a second,
//! beside copies that move as many bytes (half of them read, half written), and how many times as fast as over dense f16.
//!
//! 8 KV heads with 4 query heads each. What is gone over again and again lies in so much memory that no cache of a GPU holds it.
//! Sequences that do not fit the GPU's memory are left out, and said to be.
//!
//! `error` is what rounding changes: of what is attended to, beside dense f16 (root mean squares). It shows that what was timed
//! was computed; rows are noise, so it is larger than a model's.

use serde_json::{Map, json};
use sparkv_device::rows::{LINE, Run};
use sparkv_device::{
    AttentionMemory, AttentionPlan, AttentionShape, AttentionSpan, Memory, StoredRows, move_lines,
};

use super::gpu::DriverCopy;
use super::report::{Report, Samples};
use super::rows::{Pool, Storage, dense_units, random, storages};
use super::{Bench, GROUP, KV_HEADS, Result};

/// What is attended to.
#[derive(Debug, Clone, Copy)]
struct Shape {
    head_dim: usize,
    batch: usize,
    tokens: usize,
}

/// Sequences in one storage.
struct Case {
    storage: Storage,
    /// Bytes of rows of all sequences.
    bytes: usize,
    /// Of sequences that lie behind one another, more than a GPU's cache holds.
    plans: Vec<AttentionPlan>,
    /// How often each thing is done for a measurement, once that is known.
    times: [usize; 3],
    attention: Samples,
    driver: Samples,
    kernel: Samples,
    /// (batch, query_heads * head_dim)
    out: Vec<f32>,
}

/// Memory of all cases, which take turns in it.
struct Held {
    pool: Pool,
    copy: Option<DriverCopy>,
    queries: Memory,
    scratch: Memory,
    out: Memory,
}

/// All sizes.
pub(crate) fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("attention", bench);
    for head_dim in bench.options.head_dims() {
        for batch in bench.options.batches() {
            for tokens in bench.options.tokens(&[32_768, 131_072], &[64]) {
                let tokens = tokens.next_multiple_of(32);
                Shape { head_dim, batch, tokens }.measure(bench, &mut report)?;
            }
        }
    }
    Ok(report)
}

impl Shape {
    fn measure(self, bench: &Bench, report: &mut Report) -> Result<()> {
        let Self { head_dim, batch, tokens } = self;
        let what = format!("head_dim {head_dim}, batch {batch}, {tokens} tokens");
        bench.progress(&what)?;
        let mut cases = storages(head_dim)?
            .into_iter()
            .map(|storage| self.case(bench, storage))
            .collect::<Result<Vec<_>>>()?;
        let largest = cases.iter().map(|case| case.plans.len() * case.bytes).max().unwrap_or(0);
        let scratch = cases.iter().flat_map(|case| &case.plans).map(AttentionPlan::scratch_bytes).max();
        let scratch = scratch.unwrap_or(0);
        // Rows, what the driver copies, and what is left to others.
        let needed = 2 * largest + scratch + (64 << 20);
        if let Some(free) = bench.gpu.free_memory().filter(|free| *free < needed) {
            report.left_out.push(format!("{what}: {needed} bytes are needed, {free} are free"));
            return Ok(());
        }
        let device = &bench.gpu.device;
        let row = KV_HEADS * GROUP * head_dim;
        let mut held = Held {
            pool: Pool::new(device, head_dim, largest)?,
            copy: bench.gpu.driver_copy(largest / 2)?,
            queries: random(device, batch * row, 3)?,
            scratch: device.allocate(scratch)?,
            out: device.allocate(4 * batch * row)?,
        };
        for _ in 0..bench.options.rounds {
            for case in &mut cases {
                case.measure(bench, &mut held)?;
            }
        }
        report.results.extend(cases.iter().map(|case| self.result(case, &cases[0])));
        Ok(())
    }

    fn attention(self) -> AttentionShape {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        AttentionShape { query_heads: KV_HEADS * GROUP, kv_heads: KV_HEADS, head_dim: self.head_dim, scale }
    }

    fn case(self, bench: &Bench, storage: Storage) -> Result<Case> {
        let of_sequence = storage.bytes(self.tokens);
        let bytes = self.batch * of_sequence;
        // In both halves of a copy, and whole lines in each.
        let count = bench.options.uncached_bytes().div_ceil(bytes);
        let first = Pool::first_row(self.head_dim)?;
        let dense = dense_units(self.head_dim)?;
        let plan = |number: usize| -> Result<AttentionPlan> {
            let run = |sequence: usize| Run {
                line: first + ((number * self.batch + sequence) * of_sequence / LINE) as u32,
                rows: self.tokens as u32,
            };
            let runs: Vec<[Run; 1]> = (0..self.batch).map(|sequence| [run(sequence)]).collect();
            let spans: Vec<AttentionSpan<'_>> = runs
                .iter()
                .enumerate()
                .map(|(sequence, runs)| {
                    let rows = StoredRows { units: storage.units, runs };
                    let none = StoredRows { units: dense, runs: &[] };
                    let is_dense = storage.units.is_dense();
                    AttentionSpan {
                        query: sequence,
                        out: sequence,
                        rows: 1,
                        end: self.tokens,
                        window: None,
                        quantized: (!is_dense).then(|| (rows, storage.tables(0))),
                        dense: if is_dense { rows } else { none },
                        is_prompt: false,
                    }
                })
                .collect();
            Ok(AttentionPlan::new(&bench.gpu.device, &self.attention(), &spans)?)
        };
        let plans = (0..count).map(plan).collect::<Result<_>>()?;
        let (times, out) = Default::default();
        let [attention, driver, kernel] = [(); 3].map(|()| Samples::default());
        Ok(Case { storage, bytes, plans, times, attention, driver, kernel, out })
    }

    fn result(self, case: &Case, dense: &Case) -> Map<String, serde_json::Value> {
        let Case { bytes, attention, driver, kernel, out, .. } = case;
        let squares =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let differences = squares(&mut out.iter().zip(&dense.out).map(|(own, dense)| own - dense));
        let error = (differences / squares(&mut dense.out.iter().copied())).sqrt();
        let mut result = Map::new();
        let mut add = |name: &str, value| result.insert(name.to_owned(), value);
        add("head_dim", json!(self.head_dim));
        add("batch", json!(self.batch));
        add("tokens", json!(self.tokens));
        add("rows", json!(case.storage.name));
        add("bytes", json!(bytes));
        add("seconds", attention.json());
        add("bytes_per_second", json!(*bytes as f64 / attention.median()));
        let copies = if driver.0.is_empty() { kernel.clone() } else { driver.or_faster(kernel) };
        if !driver.0.is_empty() {
            add("driver_copy_seconds", driver.json());
        }
        add("kernel_copy_seconds", kernel.json());
        add("of_copy", json!(attention.faster_than(&copies)));
        add("of_f16", json!(attention.faster_than(&dense.attention)));
        add("error", json!(error));
        result
    }
}

impl Case {
    /// Takes its turn.
    fn measure(&mut self, bench: &Bench, held: &mut Held) -> Result<()> {
        let gpu = &bench.gpu;
        let all = self.plans.len();
        held.pool.fill(&gpu.device, &self.storage, all * self.bytes)?;
        let memory = AttentionMemory {
            pool: held.pool.memory.view(),
            queries: held.queries.view(),
            scratch: held.scratch.view(),
            out: held.out.view(),
        };
        let attend = |number: usize| Ok(self.plans[number % all].launch(&gpu.device, memory)?);
        if self.attention.0.is_empty() {
            self.times[0] = gpu.times(&bench.options, attend)?;
            self.out = read(bench, &held.out)?;
        }
        self.attention.0.push(gpu.seconds(self.times[0], attend)?);

        // As many bytes are moved where as many are read as written.
        let half = self.bytes / 2 / LINE * LINE;
        if let Some(copy) = &mut held.copy {
            let mut copy = |number: usize| copy.copy(number % all * half, half);
            if self.driver.0.is_empty() {
                self.times[1] = gpu.times(&bench.options, &mut copy)?;
            }
            self.driver.0.push(gpu.seconds(self.times[1], copy)?);
        }
        let lines = (half / LINE) as u32;
        let line = |number: usize| held.pool.rows + number as u32 * lines;
        let pool = held.pool.memory.view();
        let copy = |number: usize| {
            let number = number % all;
            Ok(move_lines(&gpu.device, (pool, line(number)), (pool, line(all + number)), lines)?)
        };
        if self.kernel.0.is_empty() {
            self.times[2] = gpu.times(&bench.options, copy)?;
        }
        self.kernel.0.push(gpu.seconds(self.times[2], copy)?);
        Ok(())
    }
}

/// # Errors
/// If it is not all numbers, or all of them are zero: that is not attention.
fn read(bench: &Bench, out: &Memory) -> Result<Vec<f32>> {
    let mut bytes = vec![0; out.bytes()];
    bench.gpu.device.download(out.view(), &mut bytes)?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().any(|value| !value.is_finite()) || values.iter().all(|value| *value == 0.0) {
        return Err("what attention gives is zeros, or no numbers".into());
    }
    Ok(values)
}
