//! A model's configuration: `config.json` (or a GGUF file's metadata) checked once, into [`DecoderConfig`].
//!
//! Everything the decoder multiplies or divides by later is bounded here, so that no configuration, however
//! absurd, makes it panic. What is not supported is refused by name, never ignored.
pub(crate) mod error;
mod generation;
mod json;
mod rope;

use sparkv::{AttentionConfig, KvSettings, KvShape};

use crate::family::TensorNames;
use error::{positive, within};

pub use error::ConfigError;
pub use generation::{AdvisedSampling, GenerationConfig};
pub use rope::{RopeConfig, RopeScaling};

/// A checked description of a decoder. Made by [`DecoderConfig::from_json`] or from a GGUF file's metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// How its files name and order tensors.
    pub(crate) tensors: &'static TensorNames,
    /// What GGUF files call its family.
    pub(crate) architecture: &'static str,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head; a multiple of 8.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Term that keeps RMSNorm's divisor above zero.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Positions a query sees, itself included; all if `None`.
    pub sliding_window: Option<usize>,
    /// Whether q, k and v have biases, each.
    pub attention_bias: [bool; 3],
    /// Whether o has one.
    pub attention_output_bias: bool,
    /// Whether queries and keys are normalized (RMSNorm over the channels of a head) before they are rotated.
    pub query_key_norm: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether the output head is the embedding table; `None`: it is where the weights have no head of its own.
    pub tied_embeddings: Option<bool>,
    /// Tokens that end an answer, as far as this file knows.
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Shape of the model's KV cache.
    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, attention: self.attention() }
    }

    /// What attention needs to know.
    pub fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            sliding_window: self.sliding_window,
        }
    }

    /// Adds tokens that end an answer, as another file knows them.
    pub(crate) fn add_ends(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }

    /// The last step of reading a configuration from anywhere.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        // Bounds far above any model, low enough that products of three of them fit into 64 bits.
        within("vocab_size", self.vocab_size, 1 << 24)?;
        within("hidden_size", self.hidden_size, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1 << 22)?;
        within("num_hidden_layers", self.layers, 1 << 12)?;
        within("num_attention_heads", self.query_heads, 1 << 12)?;
        within("num_key_value_heads", self.kv_heads, 1 << 12)?;
        within("head_dim", self.head_dim, 1 << 12)?;
        within("max_position_embeddings", self.context_length, 1 << 28)?;
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 1 << 28)?;
        }
        if !self.head_dim.is_multiple_of(8) {
            return Err(ConfigError::invalid(
                "head_dim",
                format!("must be a multiple of 8, got {}", self.head_dim),
            ));
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::invalid(
                "num_key_value_heads",
                format!("{} query heads cannot share {} key/value heads", self.query_heads, self.kv_heads),
            ));
        }
        // The cache itself says which shapes it takes.
        if KvSettings::exact().cache_bytes(&self.kv_shape(), 1, 0).is_err() {
            return Err(ConfigError::unsupported(
                "head_dim",
                self.head_dim.to_string(),
                "it is more than caches hold",
            ));
        }
        positive("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.check(self.head_dim)?;
        Ok(self)
    }
}
