//! How much attention a layer's prompt gets, by which those tokens are chosen that stay: from the queries of a window of 64, and
//! what tokens contribute to 2,048 queries from all of the prompt.
//!
//! Dense f16, 8 KV heads with 4 query heads each.

use serde_json::{Map, json};
use sparkv_device::rows::Run;
use sparkv_device::{Mass, Memory, Observation, Observed, Prompt, mass, mass_scratch_bytes};

use super::report::{Report, Samples};
use super::rows::{Pool, dense_units, random, storages};
use super::{Bench, GROUP, KV_HEADS, Result};

/// Queries that look at a prompt.
struct Case {
    name: &'static str,
    what: Mass,
    positions: Vec<Observation>,
    times: usize,
    samples: Samples,
}

/// Memory of all cases: the prompt, queries, what is computed.
struct Held {
    head_dim: usize,
    tokens: usize,
    pool: Pool,
    queries: Memory,
    scratch: Memory,
    masses: Memory,
}

/// All sizes.
pub(crate) fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("mass", bench);
    for head_dim in bench.options.head_dims() {
        for tokens in bench.options.tokens(&[32_768], &[96]) {
            of_shape(bench, &mut report, head_dim, tokens.next_multiple_of(32))?;
        }
    }
    Ok(report)
}

fn of_shape(bench: &Bench, report: &mut Report, head_dim: usize, tokens: usize) -> Result<()> {
    bench.progress(&format!("head_dim {head_dim}, {tokens} tokens"))?;
    let device = &bench.gpu.device;
    let [window, sample] = if bench.options.smoke { [3, 9] } else { [64, 2048] };
    let seen = |slot: usize, seen: usize| Observation { slot: slot as u32, seen: seen as u32 };
    let last = (0..window).map(|slot| seen(slot, tokens - window + slot + 1)).collect();
    let all = (0..sample).map(|slot| seen(slot, tokens)).collect();
    let mut cases =
        [Case::new("window", Mass::Attention, last), Case::new("expected", Mass::Contribution, all)];
    let bytes = storages(head_dim)?[0].bytes(tokens);
    let queries = sample * KV_HEADS * GROUP;
    let held = Held {
        head_dim,
        tokens,
        pool: Pool::new(device, head_dim, bytes)?,
        queries: random(device, queries * head_dim, 3)?,
        scratch: device.allocate(mass_scratch_bytes(tokens, queries))?,
        masses: device.allocate(4 * KV_HEADS * tokens)?,
    };
    held.pool.fill(device, &storages(head_dim)?[0], bytes)?;
    for _ in 0..bench.options.rounds {
        for case in &mut cases {
            case.measure(bench, &held)?;
        }
    }
    report.results.extend(cases.iter().map(|case| case.result(&held)));
    Ok(())
}

impl Case {
    fn new(name: &'static str, what: Mass, positions: Vec<Observation>) -> Self {
        Self { name, what, positions, times: 0, samples: Samples::default() }
    }

    /// Takes its turn.
    fn measure(&mut self, bench: &Bench, held: &Held) -> Result<()> {
        let gpu = &bench.gpu;
        let units = dense_units(held.head_dim)?;
        let runs = [Run { line: held.pool.rows, rows: held.tokens as u32 }];
        let prompt = Prompt { units: &units, pool: held.pool.memory.view(), runs: &runs };
        let observed = Observed {
            queries: held.queries.view(),
            query_heads: KV_HEADS * GROUP,
            positions: &self.positions,
        };
        let score = |_| {
            let (scratch, masses) = (held.scratch.view(), held.masses.view());
            Ok(mass(&gpu.device, self.what, prompt, observed, scratch, masses)?)
        };
        if self.samples.0.is_empty() {
            self.times = gpu.times(&bench.options, score)?;
        }
        self.samples.0.push(gpu.seconds(self.times, score)?);
        Ok(())
    }

    fn result(&self, held: &Held) -> Map<String, serde_json::Value> {
        let queries = self.positions.len() * KV_HEADS * GROUP;
        let mut result = Map::new();
        let mut add = |name: &str, value| result.insert(name.to_owned(), value);
        add("head_dim", json!(held.head_dim));
        add("tokens", json!(held.tokens));
        add("score", json!(self.name));
        add("queries", json!(queries));
        add("seconds", self.samples.json());
        add("microseconds_of_token", json!(self.samples.median() * 1e6 / held.tokens as f64));
        // Products with keys, twice: for the sum of weights, and for the weights.
        let products = 4.0 * queries as f64 * held.tokens as f64 * held.head_dim as f64;
        add("flop_per_second", json!(products / self.samples.median()));
        result
    }
}
