//! Qwen2 and Qwen2.5: a Llama whose q, k and v have biases.
use super::{AttentionBias, Defaults, Family, GgufFamily, SlidingWindow, TensorNames, llama};

pub(super) static QWEN2: Family = Family {
    architectures: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    gguf: Some(GgufFamily { architecture: "qwen2", rms_norm_eps: 1e-6 }),
    defaults: Defaults {
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        kv_heads: Some(32),
        head_dim: None,
        sliding_window: SlidingWindow::IfUsed,
        attention_bias: AttentionBias::QueryKeyValue,
        mlp_bias: false,
        tied_embeddings: false,
    },
    query_key_norm: false,
    tensors: &TENSORS,
};

/// Llama's, but rotated in halves in GGUF files, too.
pub(super) static TENSORS: TensorNames = TensorNames { gguf_interleaves_heads: false, ..llama::TENSORS };
