//! Writes GGUF files as llama.cpp's converter does.
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use serde_json::Value as Json;
use sparkv_models::DecoderConfig;

use super::Weights;

pub(crate) type Metadata = Vec<(String, Value)>;

/// The weights under llama.cpp's names, q and k reordered, matrices in `dtype` where their rows allow it.
pub(crate) fn tensors(config: &DecoderConfig, weights: &Weights, dtype: GgmlDType) -> Vec<(String, QTensor)> {
    tensors_of("llama", config, weights, dtype)
}

/// The same for another architecture; Llama's alone are reordered.
pub(crate) fn tensors_of(
    architecture: &str,
    config: &DecoderConfig,
    weights: &Weights,
    dtype: GgmlDType,
) -> Vec<(String, QTensor)> {
    let reordered = architecture == "llama";
    let mut tensors: Vec<(String, QTensor)> = weights
        .iter()
        .map(|(name, tensor)| {
            let tensor = match () {
                _ if reordered && name.contains("q_proj") => interleaved(tensor, config.query_heads),
                _ if reordered && name.contains("k_proj") => interleaved(tensor, config.kv_heads),
                _ => tensor.clone(),
            };
            let row = *tensor.dims().last().unwrap();
            let fits = tensor.rank() == 2 && row % dtype.block_size() == 0;
            let dtype = if fits { dtype } else { GgmlDType::F32 };
            (llama_cpp_name(name), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    tensors
}

/// Row (head, half, i) becomes row (head, i, half).
fn interleaved(tensor: &Tensor, heads: usize) -> Tensor {
    let half = tensor.dim(0).unwrap() / heads / 2;
    let columns = tensor.elem_count() / tensor.dim(0).unwrap();
    let halves = tensor.reshape((heads, 2, half, columns)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape(tensor.shape()).unwrap()
}

fn llama_cpp_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The model's shape.
pub(crate) fn shape(config: &DecoderConfig) -> Metadata {
    shape_of("llama", config)
}

/// The same under another architecture's keys.
pub(crate) fn shape_of(architecture: &str, config: &DecoderConfig) -> Metadata {
    let count = |number: usize| Value::U32(number as u32);
    let key = |(name, value): (&str, Value)| (format!("{architecture}.{name}"), value);
    let mut metadata: Metadata = [
        ("embedding_length", count(config.hidden_size)),
        ("feed_forward_length", count(config.intermediate_size)),
        ("block_count", count(config.layers)),
        ("context_length", count(config.context_length)),
        ("attention.head_count", count(config.query_heads)),
        ("attention.head_count_kv", count(config.kv_heads)),
        ("attention.key_length", count(config.head_dim)),
        ("attention.value_length", count(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps)),
        ("rope.dimension_count", count(config.head_dim)),
        ("rope.freq_base", Value::F32(config.rope.theta)),
    ]
    .map(key)
    .into();
    metadata.push(("general.architecture".to_owned(), Value::String(architecture.to_owned())));
    metadata
}

fn texts(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(texts.into_iter().map(Value::String).collect())
}

/// The vocabulary of a `tokenizer.json`, with llama.cpp's types: 1 normal, 2 unknown, 3 control, 6 byte.
fn vocabulary(tokenizer: &Json) -> (Vec<String>, Metadata) {
    let mut ids: Vec<(u64, String)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
        .collect();
    ids.sort();
    assert!(ids.iter().enumerate().all(|(index, (id, _))| index as u64 == *id), "ids have gaps");
    let tokens: Vec<String> = ids.into_iter().map(|(_, token)| token).collect();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let kind = |token: &String| match () {
        _ if token == "<unk>" => 2,
        _ if added.iter().any(|added| added["content"] == **token) => 3,
        _ if token.starts_with("<0x") => 6,
        _ => 1,
    };
    let types = Value::Array(tokens.iter().map(|token| Value::I32(kind(token))).collect());
    let metadata = vec![
        ("tokenizer.ggml.tokens".to_owned(), texts(tokens.clone())),
        ("tokenizer.ggml.token_type".to_owned(), types),
    ];
    (tokens, metadata)
}

fn merges(tokenizer: &Json) -> Vec<(String, String)> {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let pair = |merge: &Json| match merge {
        Json::String(merge) => {
            let (left, right) = merge.split_once(' ').unwrap();
            (left.to_owned(), right.to_owned())
        }
        merge => (text(&merge[0]), text(&merge[1])),
    };
    tokenizer["model"]["merges"].as_array().unwrap().iter().map(pair).collect()
}

/// A byte-level tokenizer, as converters write it.
pub(crate) fn byte_level(tokenizer: &Json, pre: &str, bos: u32, eos: u32) -> Metadata {
    let (_, mut metadata) = vocabulary(tokenizer);
    let merges = merges(tokenizer).into_iter().map(|(left, right)| format!("{left} {right}"));
    metadata.extend([
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String(pre.to_owned())),
        ("tokenizer.ggml.merges".to_owned(), texts(merges)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(bos)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(eos)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ]);
    metadata
}

/// A SentencePiece tokenizer: the earlier a piece is merged, the higher its score.
pub(crate) fn sentencepiece(tokenizer: &Json) -> Metadata {
    let (tokens, mut metadata) = vocabulary(tokenizer);
    let mut ranks = HashMap::new();
    for (rank, (left, right)) in merges(tokenizer).into_iter().enumerate() {
        ranks.entry(left + &right).or_insert(rank);
    }
    let score = |token: &String| -(ranks.get(token).copied().unwrap_or(1 << 20) as f32);
    let scores = Value::Array(tokens.iter().map(|token| Value::F32(score(token))).collect());
    metadata.extend([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        ("tokenizer.ggml.scores".to_owned(), scores),
        ("tokenizer.ggml.unknown_token_id".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ]);
    metadata
}

pub(crate) fn write(path: &Path, metadata: &Metadata, tensors: &[(String, QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}
