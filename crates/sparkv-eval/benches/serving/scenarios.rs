//! What is measured.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sparkv::Presets;
use sparkv_engine::EngineConfig;
use sparkv_engine::core::{TokenEngine, TokenRequest};
use sparkv_eval::bench::memory;
use sparkv_models::{DecoderConfig, DeviceChoice, WeightFormat, load_dummy};

use crate::client::{Client, gaps, kv, request, summary};

/// K and V pruned by three quarters, in one byte.
const COMPRESSED: &str = r#"{"pruning": {"key_ratio": 0.75, "value_ratio": 0.75}, "precision": "int8"}"#;

/// A model, and how it is served.
pub(crate) struct Scenarios {
    pub(crate) config: DecoderConfig,
    pub(crate) weights: WeightFormat,
    pub(crate) balance: f64,
}

impl Scenarios {
    fn engine(&self, kv_memory: u64, prefix_cache: bool) -> anyhow::Result<TokenEngine> {
        self.engine_of(kv_memory, prefix_cache, self.balance)
    }

    fn engine_of(&self, kv_memory: u64, prefix_cache: bool, balance: f64) -> anyhow::Result<TokenEngine> {
        let model = load_dummy(&self.config, self.weights, 1, &DeviceChoice::Cpu.open()?, &())?;
        let config = EngineConfig {
            kv_memory,
            prefix_cache,
            prompt_balance: balance,
            max_queue: NonZeroUsize::MIN.saturating_add(1023),
            ..EngineConfig::default()
        };
        let engine = TokenEngine::start(model, config, Presets::built_in()?)?;
        // Threads start, weights are touched.
        Client::start(&engine, request(&engine, 999, 8, 2))?.finish();
        Ok(engine)
    }

    /// Tokens per second of `many` answers at once, and of one alone, in turns.
    pub(crate) fn batch(&self, many: usize, tokens: usize) -> anyhow::Result<Value> {
        let engine = self.engine(u64::MAX, false)?;
        let speed = |count: usize| -> anyhow::Result<f64> {
            let clients = (0..count)
                .map(|seed| Client::start(&engine, request(&engine, seed, 32, tokens)))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let mut times = vec![Vec::new(); count];
            for (client, times) in clients.iter().zip(&mut times) {
                while let Ok(time) = client.next() {
                    times.push(time);
                }
            }
            // While all are being answered.
            let begun = times.iter().filter_map(|times| times.first().copied()).max();
            let ended = times.iter().filter_map(|times| times.last().copied()).min();
            let (begun, ended) = begun.zip(ended).context("nothing was answered")?;
            anyhow::ensure!(
                begun < ended,
                "the first answer ended before the last began: give --tokens more"
            );
            let heard = times.iter().flatten().filter(|time| **time > begun && **time <= ended).count();
            Ok(heard as f64 / (ended - begun).as_secs_f64())
        };
        let mut speeds = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            speeds[0].push(speed(1)?);
            speeds[1].push(speed(many)?);
        }
        let [one, all] = speeds.map(median);
        Ok(json!({ "scenario": "batch", "one": one, "at_once": many, "all": all, "ratio": all / one }))
    }

    /// A chat beside a prompt of `length` tokens.
    pub(crate) fn stall(&self, length: usize) -> anyhow::Result<Value> {
        let engine = self.engine(u64::MAX, false)?;
        let long = |seed| Client::start(&engine, request(&engine, seed, length, 1));
        let alone = long(1)?.first()?;
        let chat = Client::start(&engine, request(&engine, 2, 64, 100_000))?;
        let settled = Instant::now() + Duration::from_secs(5);
        let mut before = vec![chat.next()?];
        while Instant::now() < settled {
            before.push(chat.next()?);
        }
        let prompt = long(3)?;
        let beside = prompt.first()?;
        let during = chat.heard();
        chat.leave();
        let (before, during) = (summary(gaps(&before)), summary(gaps(&during)));
        let ratio = |name: &str| during[name].as_f64().zip(before["median_ms"].as_f64()).map(|(d, b)| d / b);
        Ok(json!({
            "scenario": "stall", "prompt": length, "balance": self.balance,
            "prompt_alone_s": alone.as_secs_f64(), "prompt_beside_chat_s": beside.as_secs_f64(),
            "prompt_ratio": beside.as_secs_f64() / alone.as_secs_f64(),
            "gap_ratio_median": ratio("median_ms"), "gap_ratio_p95": ratio("p95_ms"),
            "gaps_before": before, "gaps_during": during,
        }))
    }

    /// Conversations of `length` tokens in the memory of four exact ones.
    pub(crate) fn held(&self, length: usize) -> anyhow::Result<Value> {
        let shape = self.config.kv_shape();
        let memory = shape.dense_bytes(length) * 9 / 2;
        let count = |settings: &str| -> anyhow::Result<(usize, u64)> {
            // Answers hardly move on while the others' prompts are computed: what is counted is what is held.
            let engine = self.engine_of(memory, false, 200.0)?;
            let kv = kv(settings)?;
            let clients = (0..40)
                .map(|seed| {
                    let request = TokenRequest { kv: kv.clone(), ..request(&engine, seed, length, 512) };
                    Client::start(&engine, request)
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            // Full: everybody who runs is being answered, and yet others wait, for a while.
            let (mut answered, mut full) = (vec![false; clients.len()], None);
            let running = loop {
                std::thread::sleep(Duration::from_millis(100));
                for (client, answered) in clients.iter().zip(&mut answered) {
                    *answered |= !client.heard().is_empty();
                }
                let answering =
                    clients.iter().zip(&answered).filter(|(c, answered)| **answered && !c.has_ended());
                let (answering, load) = (answering.count(), engine.load());
                if load.waiting == 0 || load.running != answering {
                    full = None;
                } else if full.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(5) {
                    break answering;
                }
            };
            let held = engine.stats().kv_active_bytes;
            // Those that wait would be answered beside what is measured next.
            engine.abort();
            clients.into_iter().for_each(Client::leave);
            Ok((running, held))
        };
        let (exact, exact_bytes) = count("{}")?;
        let (compressed, compressed_bytes) = count(COMPRESSED)?;
        Ok(json!({
            "scenario": "held", "tokens": length, "kv_memory": memory,
            "exact": exact, "exact_bytes": exact_bytes,
            "compressed": compressed, "compressed_bytes": compressed_bytes,
            "ratio": compressed as f64 / exact as f64,
        }))
    }

    /// The most that a prompt of `length` tokens holds.
    pub(crate) fn peak(&self, length: usize) -> anyhow::Result<Value> {
        let engine = self.engine(u64::MAX, false)?;
        let shape = self.config.kv_shape();
        let resident = memory().resident;
        let client =
            Client::start(&engine, TokenRequest { kv: kv(COMPRESSED)?, ..request(&engine, 1, length, 2) })?;
        let (mut most, mut most_resident) = (0u64, 0u64);
        let held = || {
            let stats = engine.stats();
            stats.kv_active_bytes + stats.kv_prefix_bytes
        };
        while client.heard().is_empty() {
            most = most.max(held());
            most_resident = most_resident.max(memory().resident.unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(20));
        let dense = shape.dense_bytes(length);
        let rows = (length * self.config.hidden_size * size_of::<f32>()) as u64;
        let grown = resident.map(|before| most_resident.saturating_sub(before));
        Ok(json!({
            "scenario": "peak", "tokens": length, "dense_bytes": dense, "peak_bytes": most,
            "share": most as f64 / dense as f64, "of_which_tokens_on_their_way": rows,
            "of_which_one_dense_layer": dense / shape.layers as u64,
            "resident_growth_bytes": grown, "resident_share": grown.map(|grown| grown as f64 / dense as f64),
        }))
    }

    /// Time to the first token of a second turn, 64 tokens after a conversation of `length`.
    pub(crate) fn turn(&self, length: usize) -> anyhow::Result<Value> {
        let second = |prefix_cache| -> anyhow::Result<(Duration, Vec<u32>)> {
            let engine = self.engine(u64::MAX, prefix_cache)?;
            let first = request(&engine, 1, length, 16);
            let said = Client::start(&engine, first.clone())?.finish();
            let prompt = [first.prompt, said, (1..65).collect()].concat();
            let client = Client::start(&engine, TokenRequest { prompt, ..request(&engine, 1, 1, 16) })?;
            let first = client.first()?;
            Ok((first, client.finish()))
        };
        let (without, expected) = second(false)?;
        let (with, said) = second(true)?;
        Ok(json!({
            "scenario": "turn", "tokens": length, "without_s": without.as_secs_f64(), "with_s": with.as_secs_f64(),
            "ratio": without.as_secs_f64() / with.as_secs_f64(), "same_tokens": said == expected,
        }))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
