//! How fast a model runs, and what it holds: prompts, and single tokens at a depth.
//!
//! Runs of the settings that are compared alternate, so that a machine that slows down slows all of them.

mod machine;
mod memory;
mod report;

use std::time::{Duration, Instant};

use serde::Serialize;
use sparkv::{KvSettings, KvShape, SequenceCache};
use sparkv_models::{Decoder, LanguageModel, ModelError, profile};

use crate::retrieval::{EvalError, SettingsUnderTest};

pub use machine::Machine;
pub use memory::{Memory, memory};
pub use report::{BenchReport, Loading, ModelReport};

/// Draws the noise in caches; which one does not matter.
const SEED: u64 = 1;

/// What is measured, and how often.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Settings that are compared.
    pub kv: &'a [SettingsUnderTest],
    /// Runs of each measurement, of which the median is reported.
    pub runs: usize,
    /// Tokens generated in a run of [`Bench::decode`].
    pub generate: usize,
    /// Gives freed memory back to the system; called before resident memory is read.
    pub settle: fn(),
}

/// The slowest and the fastest run, in tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
}

/// Where the time of the median run went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Split {
    /// All of it.
    pub total: f64,
    /// Products with weight matrices.
    pub weights: f64,
    /// Attention and the upkeep of the cache.
    pub attention: f64,
    /// Everything else.
    pub rest: f64,
}

/// The speed of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Of the median run.
    pub tokens_per_second: f64,
    /// Of the slowest and the fastest.
    pub spread: Spread,
    /// Of the median run: for a whole prompt, or for one generated token.
    pub milliseconds: Split,
}

/// How fast prompts of one length go through the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prefill {
    /// Name of the settings.
    pub kv: String,
    /// Length of the prompt.
    pub tokens: usize,
    /// The runs, compression of the cache included.
    #[serde(flatten)]
    pub speed: Speed,
    /// Multiplications and additions of causal attention over the time it took in the median run, in
    /// GFLOP/s. That time includes the upkeep of the cache.
    pub attention_gflops: f64,
}

/// How fast tokens are generated at one depth, and what the cache takes there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decode {
    /// Name of the settings.
    pub kv: String,
    /// Tokens in the cache before the first generated one; 0 stands for a single one.
    pub depth: usize,
    /// The runs.
    #[serde(flatten)]
    pub speed: Speed,
    /// Bytes that the cache holds at that depth, as it counts them.
    pub kv_bytes: u64,
    /// Bytes of a dense f16 cache of that depth.
    pub kv_dense_bytes: u64,
    /// Resident memory of the process before the cache was filled, where the system tells.
    pub resident_bytes_before: Option<u64>,
    /// And right after it.
    pub resident_bytes_after: Option<u64>,
}

/// The time of one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    elapsed: Duration,
    profile: profile::Profile,
}

impl Bench<'_> {
    /// Makes sure that prompts and depths fit the model, and all settings these, so that no such error ends a
    /// long benchmark.
    ///
    /// # Errors
    /// The first that a measurement would meet, but for a failure of the model.
    pub fn check(&self, prompts: &[usize], depths: &[usize]) -> Result<(), EvalError> {
        let limit = self.decoder.info().context_length;
        let prompts = prompts.iter().map(|&tokens| (tokens, 0));
        for (tokens, new_tokens) in prompts.chain(depths.iter().map(|&depth| (depth, self.new_tokens()))) {
            let needed = tokens.saturating_add(new_tokens);
            if needed > limit {
                return Err(EvalError::ContextExceeded { tokens: needed, limit });
            }
            self.kv.iter().try_for_each(|kv| self.settings(kv, tokens.max(1), new_tokens).map(|_| ()))?;
        }
        Ok(())
    }

    /// Lets the threads start and the weights be touched once. Not measured.
    ///
    /// # Errors
    /// If the model fails.
    pub fn warm_up(&self) -> Result<(), EvalError> {
        let mut cache = self.decoder.new_cache(&KvSettings::exact(), 1)?;
        self.decoder.prefill(&[0], &mut cache, &mut || true)?;
        self.step(&mut cache, 0)
    }

    /// Prompts of `tokens` tokens, a row for each settings; `done` is called after each run.
    ///
    /// # Errors
    /// If the prompt does not fit the model, or the model fails.
    pub fn prefill(&self, tokens: usize, done: &dyn Fn()) -> Result<Vec<Prefill>, EvalError> {
        let mut runs = vec![Vec::new(); self.kv.len()];
        for _ in 0..self.runs {
            for (kv, runs) in self.kv.iter().zip(&mut runs) {
                runs.push(self.prefill_once(kv, tokens)?);
                done();
            }
        }
        let rows = self.kv.iter().zip(&mut runs);
        Ok(rows
            .map(|(kv, runs)| {
                let speed = Speed::of(runs, tokens, 1);
                let seconds = (speed.milliseconds.attention / 1e3).max(f64::MIN_POSITIVE);
                let attention_gflops = self.attention_flops(tokens) / seconds / 1e9;
                Prefill { kv: kv.name.clone(), tokens, speed, attention_gflops }
            })
            .collect())
    }

    /// Generation at `depth`, a row for each settings; `done` is called after each run.
    ///
    /// # Errors
    /// If the depth does not fit the model, or the model fails.
    pub fn decode(&self, depth: usize, done: &dyn Fn()) -> Result<Vec<Decode>, EvalError> {
        let mut rows = Vec::new();
        let mut runs = vec![Vec::new(); self.kv.len()];
        for _ in 0..self.runs {
            for (kv, runs) in self.kv.iter().zip(&mut runs) {
                let first = rows.len() < self.kv.len();
                let before = if first { self.resident() } else { None };
                let mut cache = self.filled(kv, depth)?;
                if first {
                    let usage = self.decoder.kv_usage(&cache);
                    rows.push((usage.bytes, usage.dense_bytes, before, self.resident()));
                }
                runs.push(self.decode_once(&mut cache)?);
                done();
            }
        }
        let rows = self.kv.iter().zip(rows).zip(&mut runs);
        Ok(rows
            .map(|((kv, (kv_bytes, kv_dense_bytes, before, after)), runs)| Decode {
                kv: kv.name.clone(),
                depth,
                speed: Speed::of(runs, self.generate, self.generate),
                kv_bytes,
                kv_dense_bytes,
                resident_bytes_before: before,
                resident_bytes_after: after,
            })
            .collect())
    }

    /// Multiplications and additions of the attention over a prompt: two products with each pair of a query and
    /// a token that it sees.
    fn attention_flops(&self, tokens: usize) -> f64 {
        let KvShape { layers, attention } = self.decoder.info().kv_shape;
        let window = attention.sliding_window.unwrap_or(tokens);
        let pairs: usize = (1..=tokens).map(|position| position.min(window)).sum();
        (4 * layers * attention.query_heads * attention.head_dim) as f64 * pairs as f64
    }

    /// What the settings come to; the model's shape can take it.
    fn settings(
        &self,
        kv: &SettingsUnderTest,
        tokens: usize,
        new_tokens: usize,
    ) -> Result<KvSettings, EvalError> {
        let shape = &self.decoder.info().kv_shape;
        let error = |source| EvalError::Settings { name: kv.name.clone(), source };
        let chosen = kv.choice.settings(shape, tokens, new_tokens).map_err(error)?;
        chosen.cache_bytes(shape, tokens, new_tokens).map_err(error)?;
        Ok(chosen)
    }

    /// Resident memory, without what was freed.
    fn resident(&self) -> Option<u64> {
        (self.settle)();
        memory().resident
    }

    /// Tokens that follow the filled ones: one to warm up, and those that are measured.
    fn new_tokens(&self) -> usize {
        self.generate + 1
    }

    fn prefill_once(&self, kv: &SettingsUnderTest, tokens: usize) -> Result<Run, EvalError> {
        let mut cache = self.decoder.new_cache(&self.settings(kv, tokens, 0)?, tokens)?;
        let prompt: Vec<u32> = (0..tokens).map(|index| self.token(index)).collect();
        measure(|| Ok(self.decoder.prefill(&prompt, &mut cache, &mut || true).map(|_| ())?))
    }

    /// A cache at `depth`.
    fn filled(&self, kv: &SettingsUnderTest, depth: usize) -> Result<SequenceCache, EvalError> {
        let depth = depth.max(1);
        let mut cache = self.decoder.new_cache(&self.settings(kv, depth, self.new_tokens())?, depth)?;
        cache.fill(depth, SEED).map_err(ModelError::from)?;
        Ok(cache)
    }

    fn decode_once(&self, cache: &mut SequenceCache) -> Result<Run, EvalError> {
        self.step(cache, 0)?;
        measure(|| (1..=self.generate).try_for_each(|index| self.step(cache, index)))
    }

    fn step(&self, cache: &mut SequenceCache, index: usize) -> Result<(), EvalError> {
        self.decoder.decode(&[self.token(index)], &mut [cache])?;
        Ok(())
    }

    /// Tokens that jump through the vocabulary.
    fn token(&self, index: usize) -> u32 {
        (index * 7919 % self.decoder.info().vocab_size) as u32
    }
}

/// Times `work` on this thread.
fn measure(work: impl FnOnce() -> Result<(), EvalError>) -> Result<Run, EvalError> {
    profile::take();
    let start = Instant::now();
    work()?;
    Ok(Run { elapsed: start.elapsed(), profile: profile::take() })
}

impl Speed {
    /// Of runs of `tokens` tokens, each `steps` of what the split is told for. Sorts the runs.
    fn of(runs: &mut [Run], tokens: usize, steps: usize) -> Self {
        runs.sort_unstable_by_key(|run| run.elapsed);
        let rate = |run: Option<&Run>| {
            run.map_or(0.0, |run| tokens as f64 / run.elapsed.as_secs_f64().max(f64::MIN_POSITIVE))
        };
        // Of an even number of runs the slower one of the two in the middle: a run that took place.
        let median = runs.get(runs.len() / 2);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3 / steps.max(1) as f64;
        let (elapsed, profile) = median.map_or_else(Default::default, |run| (run.elapsed, run.profile));
        let (total, weights) = (milliseconds(elapsed), milliseconds(profile.weights));
        let attention = milliseconds(profile.attention);
        Self {
            tokens_per_second: rate(median),
            spread: Spread { min: rate(runs.last()), max: rate(runs.first()) },
            milliseconds: Split { total, weights, attention, rest: total - weights - attention },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(milliseconds: u64) -> Run {
        let weights = Duration::from_millis(milliseconds / 2);
        let profile = profile::Profile { weights, attention: Duration::from_millis(10) };
        Run { elapsed: Duration::from_millis(milliseconds), profile }
    }

    #[test]
    fn the_median_run_is_reported_between_the_slowest_and_the_fastest() {
        let speed = Speed::of(&mut [run(400), run(100), run(200)], 20, 10);
        assert_eq!(speed.tokens_per_second, 100.0);
        assert_eq!(speed.spread, Spread { min: 50.0, max: 200.0 });
        let split = speed.milliseconds;
        assert_eq!((split.total, split.weights, split.attention), (20.0, 10.0, 1.0));
        assert!((split.rest - 9.0).abs() < 1e-9);
    }
}
