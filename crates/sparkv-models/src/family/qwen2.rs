//! Qwen2 and Qwen2.5: a Llama whose q, k and v have biases.
use super::{AttentionBias, Defaults, Family, GgufFamily, SlidingWindow, TensorNames, llama};

pub(super) static QWEN2: Family = Family {
    architectures: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    gguf: Some(GgufFamily { architecture: "qwen2", rms_norm_eps: 1e-6 }),
    defaults: Defaults {
        vocab_size: 151_936,
        hidden_size: 4096,
        intermediate_size: 22_016,
        layers: 32,
        query_heads: 32,
        context_length: 32_768,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        kv_heads: Some(32),
        head_dim: None,
        sliding_window: SlidingWindow::IfUsed,
        attention_bias: AttentionBias::QueryKeyValue,
        mlp_bias: false,
        eos_token_id: None,
    },
    query_key_norm: false,
    tensors: &TENSORS,
};

/// Llama's, but rotated in halves in GGUF files, too.
pub(super) static TENSORS: TensorNames = TensorNames { gguf_interleaves_heads: false, ..llama::TENSORS };
