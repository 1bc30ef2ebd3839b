//! Storing the keys and values of new tokens in a layer's dense rows: of as many sequences' next ones, or of a part of a prompt.
//!
//! 8 KV heads. For few tokens this is the time that a launch takes.

use serde_json::{Map, json};
use sparkv_device::{Memory, RowPlace, append};

use super::report::{Report, Samples};
use super::rows::{Pool, dense_units, random, rows_from, storages};
use super::{Bench, KV_HEADS, Result};

/// So many tokens, in rows that follow one another.
struct Case {
    rows: [Memory; 2],
    pool: Pool,
    places: Vec<RowPlace>,
    times: usize,
    samples: Samples,
}

/// All sizes.
pub(crate) fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("append", bench);
    for head_dim in bench.options.head_dims() {
        bench.progress(&format!("head_dim {head_dim}"))?;
        let tokens = bench.options.tokens(&[1, 16, 2048], &[1, 20]);
        let mut cases = tokens
            .into_iter()
            .map(|tokens| Case::new(bench, head_dim, tokens))
            .collect::<Result<Vec<_>>>()?;
        for _ in 0..bench.options.rounds {
            for case in &mut cases {
                case.measure(bench, head_dim)?;
            }
        }
        report.results.extend(cases.iter().map(|case| case.result(head_dim)));
    }
    Ok(report)
}

impl Case {
    fn new(bench: &Bench, head_dim: usize, tokens: usize) -> Result<Self> {
        let device = &bench.gpu.device;
        let row = |seed| random(device, tokens * KV_HEADS * head_dim, seed);
        let rows = [row(1)?, row(2)?];
        let pool = Pool::new(device, head_dim, storages(head_dim)?[0].bytes(tokens))?;
        let places = rows_from(pool.rows, 0..tokens);
        let (times, samples) = Default::default();
        Ok(Self { rows, pool, places, times, samples })
    }

    /// Takes its turn.
    fn measure(&mut self, bench: &Bench, head_dim: usize) -> Result<()> {
        let gpu = &bench.gpu;
        let units = dense_units(head_dim)?;
        let store = |_| {
            let rows = [self.rows[0].view(), self.rows[1].view()];
            Ok(append(&gpu.device, &units, self.pool.memory.view(), rows, &self.places)?)
        };
        if self.samples.0.is_empty() {
            self.times = gpu.times(&bench.options, store)?;
        }
        self.samples.0.push(gpu.seconds(self.times, store)?);
        Ok(())
    }

    fn result(&self, head_dim: usize) -> Map<String, serde_json::Value> {
        let tokens = self.places.len();
        // f32 is read, f16 written.
        let bytes = tokens * KV_HEADS * head_dim * 2 * (4 + 2);
        let mut result = Map::new();
        let mut add = |name: &str, value| result.insert(name.to_owned(), value);
        add("head_dim", json!(head_dim));
        add("tokens", json!(tokens));
        add("bytes", json!(bytes));
        add("seconds", self.samples.json());
        add("microseconds_of_token", json!(self.samples.median() * 1e6 / tokens as f64));
        add("bytes_per_second", json!(bytes as f64 / self.samples.median()));
        result
    }
}
