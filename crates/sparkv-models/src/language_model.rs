//! What the engine needs of a model.
use sparkv::{KvSettings, KvShape, KvUsage};

use crate::error::without_backtrace;

/// Facts of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Logits per position.
    pub vocab_size: usize,
    /// Positions the model was made for; prompt and completion together.
    pub context_length: usize,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Shape of its KV cache.
    pub kv_shape: KvShape,
}

/// One sequence's part of a decode step.
#[derive(Debug)]
pub struct DecodeStep<'a, C> {
    /// The token to run, at position `cache.len()`.
    pub token: u32,
    /// The sequence's cache.
    pub cache: &'a mut C,
}

/// A causal language model whose sequences own their caches.
pub trait LanguageModel: Send {
    /// What a sequence keeps between steps.
    type Cache: Send;

    /// Facts of the model.
    fn info(&self) -> &ModelInfo;

    /// An empty cache for a prompt of `prompt_tokens` tokens.
    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<Self::Cache, ModelError>;

    /// Runs the whole prompt, compresses the cache as its settings say, and returns the logits
    /// (`vocab_size`) of the last position. Goes layer by layer, in chunks, and asks `keep_going` between
    /// them: `Ok(None)` once that says false (the client went away); the cache is then useless.
    fn prefill(
        &self,
        prompt: &[u32],
        cache: &mut Self::Cache,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError>;

    /// Runs one token of each sequence; returns the logits of each.
    fn decode(&self, batch: &mut [DecodeStep<'_, Self::Cache>]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// What `cache` holds.
    fn kv_usage(&self, cache: &Self::Cache) -> KvUsage;
}

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
    /// The computation failed.
    #[error("the model's computation failed: {}", without_backtrace(.0))]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
