//! The attention seam.
use candle_core::{Result, Tensor};

use crate::cache::LayerCache;

/// What attention needs to know of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head; a multiple of 8.
    pub head_dim: usize,
    /// Factor on the scores, usually 1/sqrt(head_dim).
    pub scale: f32,
    /// A query sees this many positions, itself included (Mistral); all of them if `None`.
    pub sliding_window: Option<usize>,
}

/// One sequence's part of a ragged batch: `tokens` rows of q, k and v, in order, and the cache they extend.
#[derive(Debug)]
pub struct Span<'a> {
    /// Rows of the batch that belong to this sequence.
    pub tokens: usize,
    /// This layer's cache of the sequence.
    pub cache: &'a mut LayerCache,
}

/// Appends k and v to the spans' caches and attends with q over them, causally.
///
/// `q`: (rows, query_heads * head_dim), `k`, `v`: (rows, kv_heads * head_dim), f32, after RoPE; rows of all
/// spans one after the other. Returns (rows, query_heads * head_dim), f32.
pub fn attend(
    config: &AttentionConfig,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &mut [Span<'_>],
) -> Result<Tensor> {
    let _ = (config, q, k, v, spans);
    todo!()
}
