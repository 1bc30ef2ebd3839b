//! The caches.
use candle_core::Result;
use serde::{Deserialize, Serialize};

use crate::settings::{KvSettings, SettingsError};

/// The shape of a model's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Channels of a head; a multiple of 8.
    pub head_dim: usize,
}

/// What a sequence's cache costs, as counted, at some moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvUsage {
    /// Name of the preset, or `custom`.
    pub preset: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens stored per layer and KV head.
    pub kept_tokens: usize,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes of a dense f16 cache of the same logical length.
    pub dense_bytes: u64,
    /// `bytes` over the logical length.
    pub bytes_per_token: f64,
}

/// One sequence's cache.
#[derive(Debug)]
pub struct SequenceCache {
    layers: Vec<LayerCache>,
}

impl SequenceCache {
    /// An empty cache for a prompt of `prompt_tokens`.
    ///
    /// # Errors
    /// If the model's shape cannot take these settings (`head_dim` not a multiple of 8, eviction on a
    /// sliding-window model, ...).
    pub fn new(
        shape: KvShape,
        sliding_window: Option<usize>,
        settings: &KvSettings,
        prompt_tokens: usize,
    ) -> std::result::Result<Self, SettingsError> {
        let _ = (shape, sliding_window, settings, prompt_tokens);
        todo!()
    }
    /// The layers' caches. Prefill goes layer by layer; see [`LayerCache::finish_prompt`].
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }
    /// Logical length: tokens that went through every layer; the position of the next token.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes held and tokens kept, counted over all layers.
    pub fn usage(&self) -> KvUsage {
        todo!()
    }
}

/// One layer's cache of one sequence.
#[derive(Debug)]
pub struct LayerCache {}

impl LayerCache {
    /// Logical length: tokens this layer has seen; the position of its next token.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Evicts, prunes, quantizes and packs once the whole prompt went through this layer. What follows is
    /// packed as it leaves the window. To be called exactly once, after the prompt's last span.
    pub fn finish_prompt(&mut self) -> Result<()> {
        todo!()
    }
}
