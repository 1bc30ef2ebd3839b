//! What becomes of a layer's prompt once it is computed: its rows go from dense f16 into every storage of the cache. Microseconds
//! of a token that stays, and bytes a second that are read and written.
//!
//! Once for a whole prompt, and once where each KV head keeps other tokens, half of them. `seconds` is all that is done on the
//! device for it: moments, as far as the storage wants them, which go to the host; the tables that come back; and rows. (What the
//! host makes of moments is not in this crate.) `rows_seconds` is the last of these alone. 8 KV heads.

use serde_json::{Map, json};
use sparkv_device::rows::{LINE, Units};
use sparkv_device::{
    KeyDomain, MOMENTS, Memory, Places, RowPlace, copy_rows, moments, moments_scratch, quantize,
};
use sparkv_kernels::BLOCK;

use super::report::{Report, Samples};
use super::rows::{Pool, Storage, dense_units, rows_from, storages};
use super::{Bench, KV_HEADS, Result};

/// A prompt that goes into one storage.
struct Case<'a> {
    storage: Storage,
    survivors: &'static str,
    from: Places<'a>,
    to: Vec<RowPlace>,
    times: [usize; 2],
    all: Samples,
    rows: Samples,
}

/// Memory of all cases: the prompt, and what becomes of it behind that.
struct Held {
    dense: Units,
    pool: Pool,
    moments: Memory,
    scratch: Memory,
}

/// All sizes.
pub(crate) fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("quantize", bench);
    for head_dim in bench.options.head_dims() {
        for tokens in bench.options.tokens(&[32_768], &[128]) {
            of_shape(bench, &mut report, head_dim, tokens.next_multiple_of(2 * BLOCK))?;
        }
    }
    Ok(report)
}

fn of_shape(bench: &Bench, report: &mut Report, head_dim: usize, tokens: usize) -> Result<()> {
    bench.progress(&format!("head_dim {head_dim}, {tokens} tokens"))?;
    let device = &bench.gpu.device;
    let storages = storages(head_dim)?;
    let f16 = storages[0].clone();
    let prompt = f16.bytes(tokens);
    let most = storages.iter().map(|storage| storage.bytes(tokens)).max().unwrap_or(0);
    let held = Held {
        dense: dense_units(head_dim)?,
        pool: Pool::new(device, head_dim, prompt + most)?,
        moments: device.allocate(4 * KV_HEADS * MOMENTS * head_dim)?,
        scratch: device.allocate(moments_scratch(&dense_units(head_dim)?, tokens))?,
    };
    held.pool.fill(device, &f16, prompt)?;
    let first = held.pool.rows;
    let everything = rows_from(first, 0..tokens);
    // Of each two tokens one, drawn for each head.
    let half: Vec<Vec<RowPlace>> = (0..KV_HEADS)
        .map(|head| {
            let kept = |pair: usize| 2 * pair + (pair * 37 + head * 11) % 7 % 2;
            (0..tokens / 2).map(|pair| RowPlace { line: first, row: kept(pair) as u32 }).collect()
        })
        .collect();
    let mut cases = Vec::new();
    for storage in storages {
        let mut add = |survivors, from| cases.push(Case::new(&held, &storage, survivors, from, prompt));
        // Dense rows that all stay are left where they are.
        if !storage.units.is_dense() {
            add("all", Places::Same(&everything));
        }
        add("half", Places::PerHead(&half));
    }
    for _ in 0..bench.options.rounds {
        for case in &mut cases {
            case.measure(bench, &held)?;
        }
    }
    report.results.extend(cases.iter().map(|case| case.result(head_dim, tokens)));
    Ok(())
}

impl<'a> Case<'a> {
    fn new(held: &Held, storage: &Storage, survivors: &'static str, from: Places<'a>, prompt: usize) -> Self {
        let line = held.pool.rows + (prompt / LINE) as u32;
        let step = if storage.units.is_dense() { 1 } else { BLOCK };
        let to = rows_from(line, 0..from.len()).into_iter().step_by(step).collect();
        let (times, all, rows) = Default::default();
        Self { storage: storage.clone(), survivors, from, to, times, all, rows }
    }

    /// Takes its turn.
    fn measure(&mut self, bench: &Bench, held: &Held) -> Result<()> {
        let gpu = &bench.gpu;
        if self.all.0.is_empty() {
            self.times[0] = gpu.times(&bench.options, |_| self.pack(bench, held))?;
            self.times[1] = gpu.times(&bench.options, |_| self.write(bench, held))?;
        }
        self.all.0.push(gpu.seconds(self.times[0], |_| self.pack(bench, held))?);
        self.rows.0.push(gpu.seconds(self.times[1], |_| self.write(bench, held))?);
        Ok(())
    }

    /// Moments and tables, and then rows.
    fn pack(&self, bench: &Bench, held: &Held) -> Result<()> {
        let device = &bench.gpu.device;
        let pool = held.pool.memory.view();
        let Storage { keys, values_rotated, .. } = self.storage;
        if matches!(keys, KeyDomain::Rotated | KeyDomain::Allotted) || values_rotated {
            let results = [held.moments.view(), held.scratch.view()];
            moments(device, &held.dense, pool, self.from, results, keys == KeyDomain::Allotted)?;
            device.download(held.moments.view(), &mut vec![0; held.moments.bytes()])?;
        }
        let tables = self.storage.table_bytes();
        if !tables.is_empty() {
            device.upload(pool.part(0, tables.len())?, &tables)?;
        }
        self.write(bench, held)
    }

    fn write(&self, bench: &Bench, held: &Held) -> Result<()> {
        let (device, pool) = (&bench.gpu.device, held.pool.memory.view());
        let Storage { units, .. } = &self.storage;
        if units.is_dense() {
            return Ok(copy_rows(device, units, pool, self.from, &self.to)?);
        }
        let tables = self.storage.tables(0);
        Ok(quantize(device, [&held.dense, units], &tables, pool, self.from, &self.to)?)
    }

    fn result(&self, head_dim: usize, tokens: usize) -> Map<String, serde_json::Value> {
        let kept = self.from.len();
        let read = kept * self.storage.units.heads * 2 * head_dim * 2;
        let bytes = read + self.storage.bytes(kept);
        let mut result = Map::new();
        let mut add = |name: &str, value| result.insert(name.to_owned(), value);
        add("head_dim", json!(head_dim));
        add("tokens", json!(tokens));
        add("survivors", json!(self.survivors));
        add("rows", json!(self.storage.name));
        add("bytes", json!(bytes));
        add("seconds", self.all.json());
        add("rows_seconds", self.rows.json());
        add("microseconds_of_token", json!(self.all.median() * 1e6 / kept as f64));
        add("bytes_per_second", json!(bytes as f64 / self.rows.median()));
        result
    }
}
