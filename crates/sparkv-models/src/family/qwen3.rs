//! Qwen3: a Llama whose queries and keys are normalized before they are rotated.
use super::qwen2::TENSORS;
use super::{AttentionBias, Defaults, Family, GgufFamily, SlidingWindow};

pub(super) static QWEN3: Family = Family {
    architectures: &["Qwen3ForCausalLM"],
    model_types: &["qwen3"],
    gguf: Some(GgufFamily { architecture: "qwen3", rms_norm_eps: 1e-6 }),
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
        head_dim: Some(128),
        sliding_window: SlidingWindow::IfUsed,
        attention_bias: AttentionBias::Stated,
        mlp_bias: false,
        eos_token_id: None,
    },
    query_key_norm: true,
    tensors: &TENSORS,
};
