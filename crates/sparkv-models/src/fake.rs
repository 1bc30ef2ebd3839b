//! A fake language model for tests of everything above a model.
//!
//! Its next token is a hash of the whole prefix, so any mixed-up cache changes the text. Its cache is the list
//! of its tokens, counted while it lives, so a test can see that it was freed. It fails on demand
//! ([`Fault`]), and can be held between two steps ([`Gate`]), so that a test can act in the middle.
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
use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sparkv::{AttentionConfig, KvSettings, KvShape, KvUsage};

use crate::language_model::{DecodeStep, LanguageModel, ModelError, ModelInfo};

/// Prompt tokens between two questions whether to go on.
pub const CHUNK: usize = 8;

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

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which step fails, counted from 1 over all sequences: a chunk of a prompt or a decoded token.
    pub step: usize,
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
    /// A step that fails.
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

/// Lets a model's steps through, all of them or a number of them.
#[derive(Debug, Default)]
pub struct Gate {
    // Steps that may still pass; any number if `None`.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Gate {
    /// Holds every step from now on.
    pub fn close(&self) {
        *self.lock() = Some(0);
    }

    /// Lets `steps` more steps through a closed gate.
    pub fn allow(&self, steps: usize) {
        if let Some(allowed) = self.lock().as_mut() {
            *allowed += steps;
        }
        self.changed.notify_all();
    }

    /// Lets everything through.
    pub fn open(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut allowed = self.lock();
        loop {
            match allowed.as_mut() {
                None => return,
                Some(0) => allowed = self.changed.wait(allowed).unwrap_or_else(PoisonError::into_inner),
                Some(steps) => {
                    *steps -= 1;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Counters {
    live_caches: AtomicUsize,
    steps: AtomicUsize,
    gate: Gate,
}

/// Watches and holds a fake model that an engine owns.
#[derive(Debug, Clone)]
pub struct Probe(Arc<Counters>);

impl Probe {
    /// Caches that exist.
    pub fn live_caches(&self) -> usize {
        self.0.live_caches.load(Ordering::SeqCst)
    }

    /// Steps begun, those that wait at the gate included.
    pub fn steps(&self) -> usize {
        self.0.steps.load(Ordering::SeqCst)
    }

    /// The gate that every step passes; open at first.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }
}

/// The fake model.
#[derive(Debug)]
pub struct FakeModel {
    config: FakeConfig,
    info: ModelInfo,
    counters: Arc<Counters>,
}

/// What a sequence has seen.
#[derive(Debug)]
pub struct FakeCache {
    preset: String,
    prompt_tokens: usize,
    tokens: Vec<u32>,
    counters: Arc<Counters>,
}

impl Drop for FakeCache {
    fn drop(&mut self) {
        self.counters.live_caches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeModel {
    /// A model and the probe that watches it.
    pub fn new(config: FakeConfig) -> (Self, Probe) {
        let info = ModelInfo {
            vocab_size: config.vocab_size,
            context_length: config.context_length,
            eos_token_ids: vec![config.eos_token_id],
            kv_shape: SHAPE,
        };
        let counters = Arc::new(Counters::default());
        let probe = Probe(Arc::clone(&counters));
        (Self { config, info, counters }, probe)
    }

    /// Counts a step, waits as told, and fails if it is the one to fail. True if its logits are to be NaN.
    fn step(&self) -> Result<bool, ModelError> {
        let step = self.counters.steps.fetch_add(1, Ordering::SeqCst) + 1;
        self.counters.gate.pass();
        std::thread::sleep(self.config.delay);
        match self.config.fault.filter(|fault| fault.step == step) {
            None => Ok(false),
            Some(Fault { kind: FaultKind::Nan, .. }) => Ok(true),
            Some(Fault { kind: FaultKind::Error, .. }) => {
                Err(ModelError::Candle(candle_core::Error::Msg(format!("fault at step {step}"))))
            }
            // Raised as a panic, but without the panic hook's report on standard error.
            Some(Fault { kind: FaultKind::Panic, .. }) => {
                std::panic::resume_unwind(Box::new(format!("fault at step {step}")))
            }
        }
    }

    fn append(&self, tokens: &[u32], cache: &mut FakeCache) -> Result<(), ModelError> {
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(ModelError::Token { id, vocab_size: self.config.vocab_size });
        }
        cache.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn logits(&self, cache: &FakeCache, nan: bool) -> Vec<f32> {
        if nan { vec![f32::NAN; self.config.vocab_size] } else { logits(&self.config, &cache.tokens) }
    }
}

impl LanguageModel for FakeModel {
    type Cache = FakeCache;

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<FakeCache, ModelError> {
        self.counters.live_caches.fetch_add(1, Ordering::SeqCst);
        Ok(FakeCache {
            preset: settings.preset().to_owned(),
            prompt_tokens,
            tokens: Vec::new(),
            counters: Arc::clone(&self.counters),
        })
    }

    fn prefill(
        &self,
        prompt: &[u32],
        cache: &mut FakeCache,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let mut nan = false;
        for chunk in prompt.chunks(CHUNK) {
            if !keep_going() {
                return Ok(None);
            }
            nan |= self.step()?;
            self.append(chunk, cache)?;
        }
        Ok(Some(self.logits(cache, nan)))
    }

    fn decode(&self, batch: &mut [DecodeStep<'_, FakeCache>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut rows = Vec::with_capacity(batch.len());
        for step in batch {
            let nan = self.step()?;
            self.append(&[step.token], step.cache)?;
            rows.push(self.logits(step.cache, nan));
        }
        Ok(rows)
    }

    fn kv_usage(&self, cache: &FakeCache) -> KvUsage {
        let bytes = size_of_val(cache.tokens.as_slice()) as u64;
        KvUsage {
            preset: cache.preset.clone(),
            prompt_tokens: cache.prompt_tokens,
            kept_tokens: cache.tokens.len(),
            bytes,
            dense_bytes: SHAPE.dense_bytes(cache.tokens.len()),
            bytes_per_token: bytes as f64 / cache.tokens.len().max(1) as f64,
        }
    }
}

/// The logits (`vocab_size`) after `prefix`: between -4 and 4, or minus infinity for what is never said.
pub fn logits(config: &FakeConfig, prefix: &[u32]) -> Vec<f32> {
    let prefix = prefix.iter().fold(0, |hash, &token| mix(hash ^ u64::from(token)));
    let logit = |id: u32| {
        if config.says.contains(&id) || id == config.eos_token_id {
            // The upper 24 bits, as a number in [0, 1).
            (mix(prefix ^ (u64::from(id) << 32)) >> 40) as f32 / (1 << 24) as f32 * 8.0 - 4.0
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

/// SplitMix64's finalizer: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Begin-of-sequence token of [`tokenizer`].
pub const BOS: u32 = 0;

/// End-of-sequence token of [`tokenizer`].
pub const EOS: u32 = 1;

/// Byte `b` is token `BYTE_OFFSET + b` of [`tokenizer`].
pub const BYTE_OFFSET: u32 = 2;

/// A chat template for [`tokenizer`], which refuses roles it does not know.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message.role not in ['system', 'user', 'assistant'] %}\
    {{ raise_exception('unknown role ' + message.role) }}{% endif %}\
    [{{ message.role }}] {{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// A byte-level tokenizer: `<s>`, `</s>`, then one token per byte. Encoding with special tokens puts `<s>` first.
///
/// # Errors
/// Never; what it is made of is fixed.
pub fn tokenizer() -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut vocab = serde_json::Map::new();
    vocab.insert("<s>".to_owned(), BOS.into());
    vocab.insert("</s>".to_owned(), EOS.into());
    // GPT-2's alphabet: printable bytes stand for themselves, the others for the code points from 256 on.
    let mut others = 256..;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { Some(u32::from(byte)) } else { others.next() };
        if let Some(letter) = code.and_then(char::from_u32) {
            vocab.insert(letter.to_string(), (BYTE_OFFSET + u32::from(byte)).into());
        }
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(BOS, "<s>"), special(EOS, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    json.to_string().parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &FakeModel, prompt: &[u32], tokens: &[u32]) -> Vec<f32> {
        let mut cache = model.new_cache(&KvSettings::exact(), prompt.len()).unwrap();
        let mut logits = model.prefill(prompt, &mut cache, &mut || true).unwrap().unwrap();
        for &token in tokens {
            logits = model.decode(&mut [DecodeStep { token, cache: &mut cache }]).unwrap().remove(0);
        }
        assert_eq!(model.kv_usage(&cache).bytes, 4 * (prompt.len() + tokens.len()) as u64);
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
    fn prefill_stops_when_told() {
        let (model, probe) = FakeModel::new(FakeConfig::default());
        let prompt = [5; 3 * CHUNK];
        let mut cache = model.new_cache(&KvSettings::exact(), prompt.len()).unwrap();
        let mut asked = 0;
        let logits = model.prefill(&prompt, &mut cache, &mut || {
            asked += 1;
            asked < 2
        });
        assert!(logits.unwrap().is_none());
        assert_eq!(probe.steps(), 1);
        assert_eq!(probe.live_caches(), 1);
    }

    #[test]
    fn tokenizer_is_a_byte_per_token() {
        let tokenizer = tokenizer().unwrap();
        let text = "a b\n\u{e9}\u{1f600}";
        let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        let expected: Vec<u32> =
            std::iter::once(BOS).chain(text.bytes().map(|b| BYTE_OFFSET + u32::from(b))).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}
