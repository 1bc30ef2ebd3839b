//! What the engine needs of a model.
use sparkv::{KvSettings, KvShape, KvUsage};

use crate::error::without_backtrace;
use crate::logits::{Logits, LogitsRows, LogitsWanted};

/// Facts of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The family that it is of, as GGUF files call it: `llama`, `qwen3`, ...
    pub architecture: &'static str,
    /// Logits per position.
    pub vocab_size: usize,
    /// Positions the model was made for; prompt and completion together.
    pub context_length: usize,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Shape of its KV cache.
    pub kv_shape: KvShape,
    /// Bytes that a token on its way through the layers holds beside the cache, until its prompt is computed.
    pub row_bytes: usize,
}

impl ModelInfo {
    /// Checks that the model has all of these tokens.
    ///
    /// # Errors
    /// [`ModelError::Token`], with the first that it does not have.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.vocab_size;
        match tokens.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(ModelError::Token { id, vocab_size }),
            None => Ok(()),
        }
    }
}

/// Some tokens of one sequence, as far as they go through the layers in a step.
#[derive(Debug)]
pub struct SpanStep<'a, C, S> {
    /// The tokens, and how far they are.
    pub span: &'a mut S,
    /// The sequence's cache.
    pub cache: &'a mut C,
    /// The most rows that may go through a layer in this step, summed over layers; at least 1. The output head counts
    /// as a layer for each row of logits but the last, which comes with the last row. What is left of it after the
    /// step.
    pub row_layers: usize,
}

/// A causal language model whose sequences own their caches.
pub trait LanguageModel: Send + Sync {
    /// What a sequence keeps between steps.
    type Cache: Send + std::fmt::Debug;

    /// Some tokens of a sequence on their way through the layers: a prompt, or the token that was drawn last.
    type Span: Send + std::fmt::Debug;

    /// The first tokens of a sequence, with which others may begin.
    type Prefix: Send + std::fmt::Debug;

    /// Facts of the model.
    fn info(&self) -> &ModelInfo;

    /// Bytes that everything of the above types holds at this moment.
    fn held_bytes(&self) -> u64;

    /// An empty cache for a prompt of `prompt_tokens` tokens.
    ///
    /// # Errors
    /// If the settings do not fit the model.
    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<Self::Cache, ModelError>;

    /// What `cache` can give to other sequences, and how many tokens that are. They stay in this cache, too.
    fn share(&self, cache: &mut Self::Cache) -> Option<(Self::Prefix, usize)>;

    /// Lets an empty cache begin with tokens of a prefix, at most `most`; gives how many that became.
    ///
    /// # Errors
    /// If the cache is not empty.
    fn begin_with(
        &self,
        cache: &mut Self::Cache,
        prefix: &Self::Prefix,
        most: usize,
    ) -> Result<usize, ModelError>;

    /// Sends `tokens` on their way: those that follow what is in `cache`, up to the end of the prompt at least, with the
    /// logits that are wanted of the last of them. Nothing is computed yet.
    ///
    /// # Errors
    /// If there are none, too few, no logits are wanted or more than there are tokens, or a token is not in the
    /// vocabulary.
    fn begin(
        &self,
        tokens: &[u32],
        wanted: LogitsWanted,
        cache: &Self::Cache,
    ) -> Result<Self::Span, ModelError>;

    /// Rows that have to go through a layer until a span of `tokens` is through, `logits` of which are wanted, summed
    /// over layers as [`SpanStep::row_layers`] counts them.
    fn row_layers(&self, tokens: usize, logits: usize) -> usize {
        tokens * self.info().kv_shape.layers + logits.saturating_sub(1)
    }

    /// Moves spans on, layer by layer, so that only one layer of a prompt is ever held uncompressed. Each layer's
    /// weights are read once for all that are at that layer. After a prompt's last token a layer's cache is compressed
    /// as its settings say; tokens that follow it see what is left.
    ///
    /// Gives for each span the rows of logits that are ready, of those that are wanted the next ones; a span is through
    /// when all of them were given. Where the likeliest are enough, all may be given.
    ///
    /// # Errors
    /// If the computation fails; all caches of the step are useless then.
    fn step(
        &self,
        spans: &mut [SpanStep<'_, Self::Cache, Self::Span>],
    ) -> Result<Vec<LogitsRows>, ModelError>;

    /// Takes back the tokens from position `tokens` on; see [`sparkv::SequenceCache::truncate`].
    ///
    /// # Errors
    /// If they can no more be taken back. Nothing has changed then.
    fn truncate(&self, cache: &mut Self::Cache, tokens: usize) -> Result<(), ModelError>;

    /// Bytes that a span holds beside the cache between steps.
    fn span_bytes(&self, span: &Self::Span) -> u64;

    /// What `cache` holds.
    fn kv_usage(&self, cache: &Self::Cache) -> KvUsage;

    /// Bytes that the next token of `cache` may allocate.
    fn next_bytes(&self, cache: &Self::Cache) -> u64;

    /// Runs `tokens` that follow what is in `cache`, and returns the logits of the last. Asks `keep_going`
    /// between steps: `Ok(None)` once that says false; the cache is then useless.
    ///
    /// # Errors
    /// As [`LanguageModel::begin`] and [`LanguageModel::step`].
    fn prefill(
        &self,
        tokens: &[u32],
        cache: &mut Self::Cache,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let mut span = self.begin(tokens, LogitsWanted::all(1), cache)?;
        while keep_going() {
            let mut spans = [SpanStep { span: &mut span, cache, row_layers: PREFILL_CHUNK }];
            if let Some(logits) = self.step(&mut spans)?.into_iter().flatten().next() {
                return Ok(logits.into_all());
            }
        }
        Ok(None)
    }

    /// Runs the next token of each sequence, `tokens[i]` of `caches[i]`; returns the logits of each.
    ///
    /// # Errors
    /// As [`LanguageModel::begin`] and [`LanguageModel::step`].
    fn decode(&self, tokens: &[u32], caches: &mut [&mut Self::Cache]) -> Result<Vec<Vec<f32>>, ModelError> {
        let wanted = LogitsWanted::all(1);
        let spans =
            tokens.iter().zip(caches.iter()).map(|(&token, cache)| self.begin(&[token], wanted, cache));
        let mut spans = spans.collect::<Result<Vec<_>, _>>()?;
        let row_layers = self.row_layers(1, 1);
        let steps = spans.iter_mut().zip(caches).map(|(span, cache)| SpanStep {
            span,
            cache: &mut **cache,
            row_layers,
        });
        let rows = self.step(&mut steps.collect::<Vec<_>>())?.into_iter().flatten();
        Ok(rows.filter_map(Logits::into_all).collect())
    }
}

/// Checks what [`LanguageModel::begin`] is asked for; `prompt_left`: tokens that are left of the prompt.
///
/// # Errors
/// [`ModelError::Span`], [`ModelError::Token`].
pub(crate) fn check_span(
    info: &ModelInfo,
    tokens: &[u32],
    logits: usize,
    prompt_left: Option<usize>,
) -> Result<(), ModelError> {
    let reason = match tokens.len() {
        0 => "is empty",
        len if prompt_left.is_some_and(|left| len < left) => "does not reach the end of the prompt",
        len if logits == 0 || logits > len => "wants none or more than it has",
        _ => return info.check_tokens(tokens),
    };
    Err(ModelError::Span { tokens: tokens.len(), logits, reason })
}

/// The most rows of a prompt that go through a layer at a time: enough to keep matrix products busy, few enough
/// that what they need in passing stays small.
pub const PREFILL_CHUNK: usize = 512;

/// What can go wrong while a model runs. (Loading has its own error.)
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The settings do not fit this model.
    #[error(transparent)]
    Settings(#[from] sparkv::SettingsError),
    /// A token id the model does not have.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Tokens that can no more be taken back.
    #[error(transparent)]
    Truncate(#[from] sparkv::TruncateError),
    /// Tokens that cannot be sent on their way together.
    #[error("a span of {tokens} tokens, {logits} of whose logits are wanted, {reason}")]
    Span {
        /// The tokens.
        tokens: usize,
        /// How many rows of logits were asked for.
        logits: usize,
        /// Why not.
        reason: &'static str,
    },
    /// The computation failed.
    #[error("the model's computation failed: {}", without_backtrace(.0))]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
