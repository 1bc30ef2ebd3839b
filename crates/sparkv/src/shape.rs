//! The shape of a model, as far as its cache depends on it.

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

impl AttentionConfig {
    /// Length of a row of queries, and of attention's output.
    pub(crate) fn query_row(&self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Length of a row of keys or values.
    pub(crate) fn kv_row(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a KV head.
    pub(crate) fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

/// The shape of a model's KV cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Attention of each layer.
    pub attention: AttentionConfig,
}

impl KvShape {
    /// Bytes of a dense f16 cache of `tokens` tokens.
    pub fn dense_bytes(&self, tokens: usize) -> u64 {
        (self.layers * self.attention.kv_row() * 2 * 2) as u64 * tokens as u64
    }
}
