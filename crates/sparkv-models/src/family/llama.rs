//! Llama, and everything that is written down as one.
use super::{AttentionBias, Defaults, Family, GgufFamily, Name, SlidingWindow, TensorNames};

pub(super) static LLAMA: Family = Family {
    architectures: &["LlamaForCausalLM"],
    model_types: &["llama"],
    gguf: Some(GgufFamily { architecture: "llama", rms_norm_eps: 1e-5 }),
    defaults: Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        layers: 32,
        query_heads: 32,
        context_length: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        kv_heads: None,
        head_dim: None,
        sliding_window: SlidingWindow::Ignored,
        attention_bias: AttentionBias::Stated,
        mlp_bias: false,
        eos_token_id: Some(2),
    },
    query_key_norm: false,
    tensors: &TENSORS,
};

/// As llama.cpp has them.
pub(super) const TENSORS: TensorNames = TensorNames {
    embeddings: Name { hf: "model.embed_tokens", gguf: "token_embd" },
    norm: Name { hf: "model.norm", gguf: "output_norm" },
    head: Name { hf: "lm_head", gguf: "output" },
    layers: Name { hf: "model.layers", gguf: "blk" },
    attention_norm: Name { hf: "input_layernorm", gguf: "attn_norm" },
    q: Name { hf: "self_attn.q_proj", gguf: "attn_q" },
    k: Name { hf: "self_attn.k_proj", gguf: "attn_k" },
    v: Name { hf: "self_attn.v_proj", gguf: "attn_v" },
    o: Name { hf: "self_attn.o_proj", gguf: "attn_output" },
    mlp_norm: Name { hf: "post_attention_layernorm", gguf: "ffn_norm" },
    gate: Name { hf: "mlp.gate_proj", gguf: "ffn_gate" },
    up: Name { hf: "mlp.up_proj", gguf: "ffn_up" },
    down: Name { hf: "mlp.down_proj", gguf: "ffn_down" },
    q_norm: Name { hf: "self_attn.q_norm", gguf: "attn_q_norm" },
    k_norm: Name { hf: "self_attn.k_norm", gguf: "attn_k_norm" },
    gguf_interleaves_heads: true,
};
