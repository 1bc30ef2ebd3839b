//! What the tests share: small random models, their files, and greedy decoding.
pub(crate) mod gguf;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use sparkv::{KvChoice, KvOptions, KvSettings, Presets, settings::Precision};
use sparkv_models::{Decoder, DecoderConfig, LanguageModel, SafetensorsFiles, WeightFormat};

pub(crate) type Weights = HashMap<String, Tensor>;

/// An uncompressed cache in f32.
pub(crate) fn exact() -> KvSettings {
    let options = KvOptions { precision: Some(Precision::F32.into()), ..KvOptions::default() };
    match Presets::built_in().unwrap().resolve(&options).unwrap() {
        KvChoice::Fixed(settings) => settings,
        KvChoice::Budget(..) => unreachable!("no budget was asked for"),
    }
}

/// A small Llama: 3 layers, 4 query heads on 2 KV heads, `changes` on top.
pub(crate) fn llama(changes: Value) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A small Qwen of this version.
pub(crate) fn qwen(version: usize, changes: Value) -> Value {
    let mut config = llama(changes);
    config["architectures"] = json!([format!("Qwen{version}ForCausalLM")]);
    config["model_type"] = json!(format!("qwen{version}"));
    // As such files have it, though no window is used.
    config["sliding_window"] = json!(64);
    config["max_window_layers"] = json!(3);
    config["use_sliding_window"] = json!(false);
    config
}

/// A reproducible stream of numbers in [-1, 1).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn token(&mut self, vocab_size: usize) -> u32 {
        ((self.next() + 1.0) / 2.0 * vocab_size as f32) as u32 % vocab_size as u32
    }

    pub(crate) fn tokens(&mut self, count: usize, vocab_size: usize) -> Vec<u32> {
        (0..count).map(|_| self.token(vocab_size)).collect()
    }
}

/// Random weights for `config`, scaled so that activations neither vanish nor explode.
pub(crate) fn random_weights(config: &Value, seed: u64) -> Weights {
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let (hidden, inner) = (checked.hidden_size, checked.intermediate_size);
    let (query, kv) = (checked.query_heads * checked.head_dim, checked.kv_heads * checked.head_dim);
    let mut numbers = Numbers(seed);
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize], mean: f32, scale: f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| mean + scale * numbers.next()).collect();
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("model.embed_tokens.weight".into(), &[checked.vocab_size, hidden], 0.0, 1.0);
    add("model.norm.weight".into(), &[hidden], 1.0, 0.3);
    if checked.tied_embeddings != Some(true) {
        add("lm_head.weight".into(), &[checked.vocab_size, hidden], 0.0, 0.4);
    }
    for layer in 0..checked.layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        add(at("input_layernorm.weight"), &[hidden], 1.0, 0.3);
        add(at("post_attention_layernorm.weight"), &[hidden], 1.0, 0.3);
        if checked.query_key_norm {
            add(at("self_attn.q_norm.weight"), &[checked.head_dim], 1.0, 0.3);
            add(at("self_attn.k_norm.weight"), &[checked.head_dim], 1.0, 0.3);
        }
        let attention = [("q", query, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, query)];
        let mlp = [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)];
        let named =
            |module: &str, (name, out, from), bias| (at(&format!("{module}.{name}_proj")), out, from, bias);
        let attention = attention.map(|shape| {
            let [q, k, v] = checked.attention_bias;
            let bias = match shape.0 {
                "q" => q,
                "k" => k,
                "v" => v,
                _ => checked.attention_output_bias,
            };
            named("self_attn", shape, bias)
        });
        let mlp = mlp.map(|shape| named("mlp", shape, checked.mlp_bias));
        for (name, out, from, bias) in attention.into_iter().chain(mlp) {
            add(format!("{name}.weight"), &[out, from], 0.0, 1.7 / (from as f32).sqrt());
            if bias {
                add(format!("{name}.bias"), &[out], 0.0, 0.5);
            }
        }
    }
    weights
}

/// Writes `config.json` and `model.safetensors`.
pub(crate) fn write_folder(folder: &Path, config: &Value, weights: &Weights) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(weights, folder.join("model.safetensors")).unwrap();
}

/// The model of `config` and `weights` in f32, by way of its files.
pub(crate) fn load(config: &Value, weights: &Weights) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), config, weights);
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let files = SafetensorsFiles::open(folder.path()).unwrap();
    Decoder::load(&checked, &files, WeightFormat::F32, &Device::Cpu, &()).unwrap()
}

/// All tokens of `prompt` through prefill; the logits of the last.
pub(crate) fn prefill(decoder: &Decoder, prompt: &[u32]) -> (sparkv::SequenceCache, Vec<f32>) {
    let mut cache = decoder.new_cache(&exact(), prompt.len()).unwrap();
    let logits = decoder.prefill(prompt, &mut cache, &mut || true).unwrap().unwrap();
    (cache, logits)
}

pub(crate) fn decode_one(decoder: &Decoder, token: u32, cache: &mut sparkv::SequenceCache) -> Vec<f32> {
    decoder.decode(&[token], &mut [cache]).unwrap().remove(0)
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap();
    best.0 as u32
}

/// Greedy tokens after `prompt`, with the logits each was chosen from.
pub(crate) fn greedy(decoder: &Decoder, prompt: &[u32], count: usize) -> Vec<(u32, Vec<f32>)> {
    let (mut cache, mut logits) = prefill(decoder, prompt);
    let mut chosen = Vec::new();
    loop {
        let token = argmax(&logits);
        chosen.push((token, logits));
        if chosen.len() == count {
            return chosen;
        }
        logits = decode_one(decoder, token, &mut cache);
    }
}

/// Largest absolute difference.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The repository's demo model.
pub(crate) fn demo_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// The folder of test models beside the repository, or $SPARKV_SHARED; `None`, with a word about it, if it
/// is not there, which is an error where CI=true.
pub(crate) fn shared_model(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("SPARKV_SHARED").map_or(beside, PathBuf::from);
    let folder = shared.join("models").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", folder.display());
    // Not by a macro, whose output a test that passes hides.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("skipped: {} is missing\n", folder.display()),
    );
    None
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
