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

/// One sequence's next token in a step.
#[derive(Debug)]
pub struct DecodeStep<'a, C> {
    /// The token to run, at position `cache.len()`.
    pub token: u32,
    /// The sequence's cache.
    pub cache: &'a mut C,
}

/// One sequence's tokens on their way through the layers, in a step.
#[derive(Debug)]
pub struct PrefillStep<'a, C, P> {
    /// The tokens, and how far they are.
    pub prefill: &'a mut P,
    /// The sequence's cache.
    pub cache: &'a mut C,
    /// The most rows that may go through a layer in this step, summed over layers; at least 1. What is left of it
    /// after the step.
    pub row_layers: usize,
}

/// What a step computed; logits are of `vocab_size`.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// The logits of each decoded token.
    pub decoded: Vec<Vec<f32>>,
    /// For each prefill the logits of its last token, once that went through all layers.
    pub prefilled: Vec<Option<Vec<f32>>>,
}

/// A causal language model whose sequences own their caches.
pub trait LanguageModel: Send {
    /// What a sequence keeps between steps.
    type Cache: Send + std::fmt::Debug;

    /// Tokens on their way through the layers.
    type Prefill: Send + std::fmt::Debug;

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

    /// Sends `tokens` on their way: those that follow what is in `cache`, up to the end of the prompt at least.
    /// Nothing is computed yet.
    ///
    /// # Errors
    /// If there are none, too few, or a token is not in the vocabulary.
    fn begin(&self, tokens: &[u32], cache: &Self::Cache) -> Result<Self::Prefill, ModelError>;

    /// Runs one token of each sequence of `decode`, and moves `prefills` on: layer by layer, so that only one
    /// layer of a prompt is ever held uncompressed. Each layer's weights are read once for all of them. After a
    /// prompt's last token a layer's cache is compressed as its settings say; tokens that follow it see what
    /// is left.
    ///
    /// # Errors
    /// If the computation fails; all caches of the step are useless then.
    fn step(
        &self,
        decode: &mut [DecodeStep<'_, Self::Cache>],
        prefills: &mut [PrefillStep<'_, Self::Cache, Self::Prefill>],
    ) -> Result<StepOutput, ModelError>;

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
        let mut prefill = self.begin(tokens, cache)?;
        while keep_going() {
            let step = PrefillStep { prefill: &mut prefill, cache, row_layers: PREFILL_CHUNK };
            let output = self.step(&mut [], &mut [step])?;
            if let Some(logits) = output.prefilled.into_iter().flatten().next() {
                return Ok(Some(logits));
            }
        }
        Ok(None)
    }

    /// Runs one token of each sequence; returns the logits of each.
    ///
    /// # Errors
    /// As [`LanguageModel::step`].
    fn decode(&self, batch: &mut [DecodeStep<'_, Self::Cache>]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(self.step(batch, &mut [])?.decoded)
    }
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
    /// The computation failed.
    #[error("the model's computation failed: {}", without_backtrace(.0))]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
