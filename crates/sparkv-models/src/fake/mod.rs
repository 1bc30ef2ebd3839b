//! A fake language model for tests of everything above a model.
//!
//! Its next token is a hash of the whole prefix, so any mixed-up cache changes the text. Its cache is the list
//! of its tokens, counted while it lives, so a test can see that it was freed; and the cache of a tiny real
//! model, so that it costs what settings say and can be shared. It fails on demand ([`Fault`]), and can be held between two steps ([`Gate`]), so that a test can act in the middle.
//!
//! ```
//! use sparkv_models::fake::{FakeConfig, FakeModel, greedy};
//!
//! let config = FakeConfig::default();
//! let (model, probe) = FakeModel::new(config.clone());
//! assert_eq!(probe.live_caches(), 0);
//! let expected: Vec<u32> = greedy(&config, &[5, 6, 7], 10);
//! assert_eq!(expected.len(), 10);
//! # drop(model);
//! ```
mod cache;
mod probe;
mod tokenizer;

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sparkv::pool::Charge;
use sparkv::splitmix::mix;
use sparkv::{AttentionConfig, KvSettings, KvShape, KvUsage};

pub use cache::{FakeCache, FakePrefix};
use probe::Counters;
pub use probe::{Gate, Probe};
pub use tokenizer::{BOS, BYTE_OFFSET, CHAT_TEMPLATE, EOS, tokenizer};

use crate::language_model::{LanguageModel, ModelError, ModelInfo, SpanStep, check_span};
use crate::logits::{Logits, LogitsRows, LogitsWanted};

/// Prompt tokens that go through the model at a time.
pub const CHUNK: usize = 8;

/// Bytes of a prompt's token beside the cache, until the prompt is computed.
const ROW_BYTES: usize = 16;

/// The shape that its cache pretends to have.
const SHAPE: KvShape = KvShape {
    layers: 1,
    attention: AttentionConfig { query_heads: 1, kv_heads: 1, head_dim: 8, scale: 1.0, sliding_window: None },
};

/// How a fault shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The call returns an error.
    Error,
    /// The call panics.
    Panic,
    /// The call returns logits without a number in them; a fault in the middle of a prompt shows at its end.
    Nan,
}

/// When a fault shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAt {
    /// Once: at this step, counted from 1 over all sequences. A chunk of a prompt or a decoded token is a step.
    Step(usize),
    /// Whenever this token is run.
    Token(u32),
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at: FaultAt,
    /// How.
    pub kind: FaultKind,
}

/// What a fake model is like.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeConfig {
    /// Logits per position.
    pub vocab_size: usize,
    /// Positions of prompt and completion together.
    pub context_length: usize,
    /// The token that ends an answer; may be said at any time.
    pub eos_token_id: u32,
    /// The other tokens that it says; all others have a logit of minus infinity.
    pub says: Range<u32>,
    /// What fails.
    pub fault: Option<Fault>,
    /// How long a step takes.
    pub delay: Duration,
}

impl Default for FakeConfig {
    /// The vocabulary of [`tokenizer`], saying printable ASCII; 256 positions.
    fn default() -> Self {
        Self {
            vocab_size: BYTE_OFFSET as usize + 256,
            context_length: 256,
            eos_token_id: EOS,
            says: BYTE_OFFSET + 0x20..BYTE_OFFSET + 0x7f,
            fault: None,
            delay: Duration::ZERO,
        }
    }
}

/// The fake model.
#[derive(Debug)]
pub struct FakeModel {
    config: FakeConfig,
    info: ModelInfo,
    counters: Arc<Counters>,
}

/// Tokens on their way.
#[derive(Debug)]
pub struct FakeSpan {
    tokens: Vec<u32>,
    /// How many of the last ones the logits are wanted of.
    logits: usize,
    done: usize,
    nan: bool,
    /// What several tokens hold; one never stays from step to step.
    charge: Option<Charge>,
}

impl FakeModel {
    /// A model and the probe that watches it.
    pub fn new(config: FakeConfig) -> (Self, Probe) {
        let info = ModelInfo {
            architecture: "fake",
            vocab_size: config.vocab_size,
            context_length: config.context_length,
            eos_token_ids: vec![config.eos_token_id],
            kv_shape: SHAPE,
            row_bytes: ROW_BYTES,
        };
        let counters = Arc::new(Counters::default());
        let probe = Probe(Arc::clone(&counters));
        (Self { config, info, counters }, probe)
    }

    /// Counts a step that runs `tokens`, waits as told, and fails if it is one to fail. True if its logits are to be
    /// NaN.
    fn pass(&self, tokens: &[u32]) -> Result<bool, ModelError> {
        let step = self.counters.steps.fetch_add(1, Ordering::SeqCst) + 1;
        self.counters.gate.pass();
        std::thread::sleep(self.config.delay);
        let strikes = |fault: &Fault| match fault.at {
            FaultAt::Step(n) => n == step,
            FaultAt::Token(id) => tokens.contains(&id),
        };
        match self.config.fault.filter(strikes).map(|fault| fault.kind) {
            None => Ok(false),
            Some(FaultKind::Nan) => Ok(true),
            Some(FaultKind::Error) => {
                Err(ModelError::Candle(candle_core::Error::Msg(format!("fault at step {step}"))))
            }
            // Raised as a panic, but without the panic hook's report on standard error.
            Some(FaultKind::Panic) => std::panic::resume_unwind(Box::new(format!("fault at step {step}"))),
        }
    }

    fn logits(&self, tokens: &[u32], nan: bool) -> Vec<f32> {
        if nan { vec![f32::NAN; self.config.vocab_size] } else { logits(&self.config, tokens) }
    }

    /// Moves a span on by a chunk. The logits that are wanted of that.
    fn advance(&self, step: &mut SpanStep<'_, FakeCache, FakeSpan>) -> Result<LogitsRows, ModelError> {
        let span = &mut *step.span;
        let start = span.done;
        let end = span.tokens.len().min(start + CHUNK.min(step.row_layers));
        let chunk = &span.tokens[start..end];
        span.nan |= self.pass(chunk)?;
        let before = step.cache.tokens().len();
        step.cache.append(chunk)?;
        step.row_layers -= end - start;
        span.done = end;
        let first = start.max(span.tokens.len() - span.logits);
        Ok((first..end)
            .map(|row| Logits::All(self.logits(&step.cache.tokens()[..=before + row - start], span.nan)))
            .collect())
    }
}

impl LanguageModel for FakeModel {
    type Cache = FakeCache;
    type Span = FakeSpan;
    type Prefix = FakePrefix;

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn held_bytes(&self) -> u64 {
        self.counters.pool.held()
    }

    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<FakeCache, ModelError> {
        Ok(FakeCache::new(settings, prompt_tokens, &self.counters)?)
    }

    fn share(&self, cache: &mut FakeCache) -> Option<(FakePrefix, usize)> {
        cache.share()
    }

    fn begin_with(
        &self,
        cache: &mut FakeCache,
        prefix: &FakePrefix,
        most: usize,
    ) -> Result<usize, ModelError> {
        Ok(cache.begin_with(prefix, most)?)
    }

    fn begin(&self, tokens: &[u32], wanted: LogitsWanted, cache: &FakeCache) -> Result<FakeSpan, ModelError> {
        let logits = wanted.rows;
        check_span(&self.info, tokens, logits, cache.prompt_left())?;
        let charge = (tokens.len() > 1).then(|| self.counters.pool.charge(ROW_BYTES * tokens.len()));
        Ok(FakeSpan { tokens: tokens.to_vec(), logits, done: 0, nan: false, charge })
    }

    fn row_layers(&self, tokens: usize, _: usize) -> usize {
        tokens
    }

    fn step(&self, spans: &mut [SpanStep<'_, FakeCache, FakeSpan>]) -> Result<Vec<LogitsRows>, ModelError> {
        spans.iter_mut().map(|step| self.advance(step)).collect()
    }

    fn truncate(&self, cache: &mut FakeCache, tokens: usize) -> Result<(), ModelError> {
        Ok(cache.truncate(tokens)?)
    }

    fn span_bytes(&self, span: &FakeSpan) -> u64 {
        span.charge.as_ref().map_or(0, Charge::bytes)
    }

    fn kv_usage(&self, cache: &FakeCache) -> KvUsage {
        cache.usage()
    }

    fn next_bytes(&self, cache: &FakeCache) -> u64 {
        cache.next_bytes()
    }
}

/// The logits (`vocab_size`) after `prefix`: between -4 and 4, or minus infinity for what is never said.
pub fn logits(config: &FakeConfig, prefix: &[u32]) -> Vec<f32> {
    let prefix = prefix.iter().fold(0, |state, &token| hash(state ^ u64::from(token)));
    let logit = |id: u32| {
        if config.says.contains(&id) || id == config.eos_token_id {
            // The upper 24 bits, as a number in [0, 1).
            (hash(prefix ^ (u64::from(id) << 32)) >> 40) as f32 / (1 << 24) as f32 * 8.0 - 4.0
        } else {
            f32::NEG_INFINITY
        }
    };
    (0..).take(config.vocab_size).map(logit).collect()
}

/// What the model says after `prompt` when asked for its likeliest tokens, up to and with the end token.
pub fn greedy(config: &FakeConfig, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        let best = (0u32..).zip(logits(config, &tokens)).reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((token, _)) = best else { break };
        tokens.push(token);
        if token == config.eos_token_id {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

/// A step of SplitMix64.
fn hash(x: u64) -> u64 {
    mix(x.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &FakeModel, prompt: &[u32], tokens: &[u32]) -> Vec<f32> {
        let mut cache = model.new_cache(&KvSettings::exact(), prompt.len()).unwrap();
        let mut logits = model.prefill(prompt, &mut cache, &mut || true).unwrap().unwrap();
        for &token in tokens {
            logits = model.decode(&[token], &mut [&mut cache]).unwrap().remove(0);
        }
        let bytes = KvSettings::exact().cache_bytes(&SHAPE, prompt.len(), tokens.len()).unwrap();
        assert_eq!((model.kv_usage(&cache).bytes, model.held_bytes()), (bytes, bytes));
        logits
    }

    #[test]
    fn every_token_of_the_prefix_matters() {
        let (model, probe) = FakeModel::new(FakeConfig::default());
        let prefix: Vec<u32> = (10..40).collect();
        let logits = run(&model, &prefix, &[]);
        assert_eq!(logits, run(&model, &prefix[..11], &prefix[11..]), "prefill and decode disagree");
        for i in 0..prefix.len() {
            let mut other = prefix.clone();
            other[i] += 1;
            assert_ne!(logits, run(&model, &other, &[]), "token {i} does not matter");
        }
        assert_eq!(probe.live_caches(), 0);
    }

    #[test]
    fn a_shared_prefix_changes_no_logits_and_is_held_once() {
        let (model, probe) = FakeModel::new(FakeConfig::default());
        let prompt: Vec<u32> = (10..60).collect();
        let expected = logits(&model.config, &prompt);
        let mut first = model.new_cache(&KvSettings::exact(), 40).unwrap();
        model.prefill(&prompt[..40], &mut first, &mut || true).unwrap();
        let (prefix, tokens) = model.share(&mut first).unwrap();
        assert_eq!(tokens, 32);
        let before = probe.held_bytes();
        let mut second = model.new_cache(&KvSettings::exact(), prompt.len()).unwrap();
        assert_eq!(model.begin_with(&mut second, &prefix, 40).unwrap(), 32);
        assert_eq!(probe.held_bytes(), before);
        let steps = probe.steps();
        let logits = model.prefill(&prompt[32..], &mut second, &mut || true).unwrap().unwrap();
        assert_eq!((logits, probe.steps() - steps), (expected, 18usize.div_ceil(CHUNK)));
        drop((first, prefix));
        assert!(probe.held_bytes() >= model.kv_usage(&second).bytes);
        drop(second);
        assert_eq!(probe.held_bytes(), 0);
    }

    #[test]
    fn prefill_stops_when_told() {
        let (model, probe) = FakeModel::new(FakeConfig::default());
        let prompt = [5; 3 * CHUNK];
        let mut cache = model.new_cache(&KvSettings::exact(), prompt.len()).unwrap();
        let mut asked = 0;
        let logits = model.prefill(&prompt, &mut cache, &mut || {
            asked += 1;
            asked < 2
        });
        assert_eq!(asked, 2);
        assert!(logits.unwrap().is_none());
        assert_eq!(probe.steps(), 1);
        assert_eq!(probe.live_caches(), 1);
    }
}
