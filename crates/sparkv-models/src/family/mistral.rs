//! Mistral: a Llama with a sliding window. GGUF files call it a Llama.
use super::llama::TENSORS;
use super::{AttentionBias, Defaults, Family, SlidingWindow};

pub(super) static MISTRAL: Family = Family {
    architectures: &["MistralForCausalLM"],
    model_types: &["mistral"],
    gguf: None,
    defaults: Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 14_336,
        layers: 32,
        query_heads: 32,
        context_length: 131_072,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        kv_heads: Some(8),
        head_dim: None,
        sliding_window: SlidingWindow::Stated { default: 4096 },
        attention_bias: AttentionBias::Stated,
        mlp_bias: false,
        eos_token_id: Some(2),
    },
    query_key_norm: false,
    tensors: &TENSORS,
};
