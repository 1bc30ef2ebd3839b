//! The decoder against itself and against a plain reference in f64.
use std::cell::Cell;

use crate::common::{
    Numbers, Weights, decode_one, distance, exact, gguf, llama, load, prefill, qwen, random_weights,
};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use sparkv_models::{
    Decoder, DecoderConfig, GgufFile, GgufWeights, LanguageModel, LoadError, ModelError, PREFILL_CHUNK,
    WeightFormat, load_dummy,
};

/// A forward pass written for reading: f64, position by position, no cache.
struct Reference<'a> {
    config: DecoderConfig,
    /// head_dim / 2 radians per position
    frequencies: Vec<f64>,
    weights: &'a Weights,
}

impl Reference<'_> {
    fn matrix(&self, name: &str) -> Vec<Vec<f64>> {
        self.weights[name].to_dtype(DType::F64).unwrap().to_vec2().unwrap()
    }

    fn vector(&self, name: &str) -> Option<Vec<f64>> {
        Some(self.weights.get(name)?.to_dtype(DType::F64).unwrap().to_vec1().unwrap())
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let bias = self.vector(&format!("{name}.bias"));
        let rows = self.matrix(&format!("{name}.weight"));
        let dot = |row: &Vec<f64>| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let rows = rows.iter().enumerate();
        rows.map(|(i, row)| dot(row) + bias.as_ref().map_or(0.0, |bias| bias[i])).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.config.rms_norm_eps)).sqrt();
        let weight = self.vector(&format!("{name}.weight")).unwrap();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    fn norm_heads(&self, name: &str, x: &[f64]) -> Vec<f64> {
        x.chunks_exact(self.config.head_dim).flat_map(|head| self.norm(name, head)).collect()
    }

    /// Rotates pairs (i, i + D/2) of each head.
    fn rotate(&self, x: &mut [f64], position: usize) {
        let half = self.frequencies.len();
        for head in x.chunks_exact_mut(2 * half) {
            for (i, frequency) in self.frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }

    /// Logits of the last token.
    fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let config = &self.config;
        let table = self.matrix("model.embed_tokens.weight");
        let mut hidden: Vec<Vec<f64>> = tokens.iter().map(|&token| table[token as usize].clone()).collect();
        for layer in 0..config.layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in hidden.iter_mut().enumerate() {
                let normed = self.norm(&at("input_layernorm"), x);
                let mut q = self.linear(&at("self_attn.q_proj"), &normed);
                let mut k = self.linear(&at("self_attn.k_proj"), &normed);
                if config.query_key_norm {
                    q = self.norm_heads(&at("self_attn.q_norm"), &q);
                    k = self.norm_heads(&at("self_attn.k_norm"), &k);
                }
                self.rotate(&mut q, position);
                self.rotate(&mut k, position);
                keys.push(k);
                values.push(self.linear(&at("self_attn.v_proj"), &normed));
                let attended = self.attend(&q, &keys, &values);
                let attended = self.linear(&at("self_attn.o_proj"), &attended);
                x.iter_mut().zip(attended).for_each(|(x, y)| *x += y);
                let normed = self.norm(&at("post_attention_layernorm"), x);
                let gate = self.linear(&at("mlp.gate_proj"), &normed);
                let up = self.linear(&at("mlp.up_proj"), &normed);
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let down = self.linear(&at("mlp.down_proj"), &inner);
                x.iter_mut().zip(down).for_each(|(x, y)| *x += y);
            }
        }
        let last = self.norm("model.norm", hidden.last().unwrap());
        let head = if config.tied_embeddings == Some(true) { "model.embed_tokens" } else { "lm_head" };
        self.linear(head, &last).into_iter().map(|logit| logit as f32).collect()
    }

    fn attend(&self, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let dim = self.config.head_dim;
        let group = self.config.query_heads / self.config.kv_heads;
        let first = self.config.sliding_window.map_or(0, |window| keys.len().saturating_sub(window));
        let mut out = Vec::new();
        for (head, q) in q.chunks_exact(dim).enumerate() {
            let channels = head / group * dim..(head / group + 1) * dim;
            let dot = |k: &Vec<f64>| k[channels.clone()].iter().zip(q).map(|(k, q)| k * q).sum::<f64>();
            let weights: Vec<f64> =
                keys[first..].iter().map(|k| (dot(k) / (dim as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for channel in channels {
                let value = |(w, v): (&f64, &Vec<f64>)| w * v[channel] / total;
                out.push(weights.iter().zip(&values[first..]).map(value).sum());
            }
        }
        out
    }
}

/// `divisor` of frequency i: what rope scaling makes of it.
fn compare_with_reference(changes: Value, divisor: impl Fn(usize) -> f64) {
    compare_config_with_reference(llama(changes), divisor);
}

fn compare_config_with_reference(config: Value, divisor: impl Fn(usize) -> f64) {
    let weights = random_weights(&config, 11);
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let (theta, dim) = (f64::from(checked.rope.theta), checked.head_dim);
    let frequency = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64) / divisor(i);
    let frequencies = (0..dim / 2).map(frequency).collect();
    let reference = Reference { config: checked, frequencies, weights: &weights };
    let decoder = load(&config, &weights);
    let tokens = Numbers(5).tokens(24, 160);
    let (mut cache, logits) = prefill(&decoder, &tokens[..20]);
    let off = distance(&logits, &reference.logits(&tokens[..20]));
    assert!(off < 1e-4, "{config}: {off}");
    for end in 21..=24 {
        let logits = decode_one(&decoder, tokens[end - 1], &mut cache);
        let off = distance(&logits, &reference.logits(&tokens[..end]));
        assert!(off < 1e-4, "{config} at {end}: {off}");
    }
}

#[test]
fn every_option_equals_the_reference() {
    let plain = |_| 1.0;
    compare_with_reference(json!({}), plain);
    compare_with_reference(json!({"attention_bias": true}), plain);
    compare_with_reference(json!({"mlp_bias": true, "tie_word_embeddings": true}), plain);
    compare_with_reference(json!({"head_dim": 40, "rope_theta": 500.0}), plain);
    compare_with_reference(json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), |_| 4.0);
    compare_with_reference(json!({"architectures": ["MistralForCausalLM"], "sliding_window": 7}), plain);
    compare_config_with_reference(qwen(2, json!({})), plain);
    compare_config_with_reference(qwen(3, json!({"head_dim": 32, "tie_word_embeddings": true})), plain);
    let mut windowed = qwen(2, json!({}));
    (windowed["use_sliding_window"], windowed["max_window_layers"]) = (json!(true), json!(0));
    windowed["sliding_window"] = json!(7);
    compare_config_with_reference(windowed.clone(), plain);
    windowed["max_window_layers"] = json!(2);
    let error = DecoderConfig::from_json(&windowed.to_string()).unwrap_err().to_string();
    assert!(error.contains("max_window_layers"), "{error}");
}

#[test]
fn gguf_divisors_of_frequencies_equal_the_reference() {
    let config = llama(json!({"tie_word_embeddings": true}));
    let weights = random_weights(&config, 12);
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let half = checked.head_dim / 2;
    let divisors: Vec<f32> = (0..half).map(|i| 1.0 + i as f32).collect();
    let mut tensors = gguf::tensors(&checked, &weights, GgmlDType::F32);
    let stored = Tensor::new(&divisors[..], &Device::Cpu).unwrap();
    tensors.push(("rope_freqs.weight".to_owned(), QTensor::quantize(&stored, GgmlDType::F32).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf::write(&path, &gguf::shape(&checked), &tensors);
    let file = GgufFile::open(&path).unwrap();
    let read = file.config().unwrap();
    let decoder =
        Decoder::load(&read, &GgufWeights::new(&file, &read), WeightFormat::F32, &Device::Cpu, &()).unwrap();
    let frequency = |i: usize| 10_000f64.powf(-(i as f64) / half as f64) / f64::from(divisors[i]);
    let frequencies = (0..half).map(frequency).collect();
    let reference = Reference { config: checked, frequencies, weights: &weights };
    let tokens = Numbers(6).tokens(20, 160);
    let off = distance(&prefill(&decoder, &tokens).1, &reference.logits(&tokens));
    assert!(off < 1e-4, "{off}");
}

#[test]
fn gguf_divisors_that_are_not_f32_are_refused() {
    let checked = DecoderConfig::from_json(&llama(json!({})).to_string()).unwrap();
    let divisors = Tensor::ones(checked.head_dim / 2, DType::F32, &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&divisors, GgmlDType::F16).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut tensors = gguf::tensors(&checked, &random_weights(&llama(json!({})), 12), GgmlDType::F32);
    tensors.push(("rope_freqs.weight".to_owned(), stored));
    gguf::write(&path, &gguf::shape(&checked), &tensors);
    let error = GgufFile::open(&path).unwrap().config().unwrap_err();
    assert!(matches!(&error, LoadError::TensorType { dtype, .. } if dtype == "F16"), "{error}");
}

#[test]
fn tied_files_may_hold_either_end_or_both() {
    let config = llama(json!({"tie_word_embeddings": true}));
    let weights = random_weights(&config, 13);
    let tokens = Numbers(8).tokens(10, 160);
    let (_, expected) = prefill(&load(&config, &weights), &tokens);
    let mut only_head = weights.clone();
    let table = only_head.remove("model.embed_tokens.weight").unwrap();
    only_head.insert("lm_head.weight".to_owned(), table.clone());
    let mut both = weights;
    both.insert("lm_head.weight".to_owned(), table);
    for weights in [only_head, both] {
        assert_eq!(prefill(&load(&config, &weights), &tokens).1, expected);
    }
}

#[test]
fn half_precision_files_load_as_what_they_hold() {
    let config = llama(json!({}));
    let weights = random_weights(&config, 14);
    let tokens = Numbers(9).tokens(10, 160);
    for dtype in [DType::F16, DType::BF16] {
        let half: Weights =
            weights.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap())).collect();
        let widened: Weights =
            half.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::F32).unwrap())).collect();
        let (_, from_half) = prefill(&load(&config, &half), &tokens);
        let (_, from_widened) = prefill(&load(&config, &widened), &tokens);
        assert_eq!(from_half, from_widened);
    }
}

#[test]
fn a_prompt_of_many_chunks_equals_its_tokens_one_by_one() {
    let config = llama(json!({"max_position_embeddings": 2048}));
    let decoder = load(&config, &random_weights(&config, 15));
    let tokens = Numbers(10).tokens(PREFILL_CHUNK + 40, 160);
    let (cache, whole) = prefill(&decoder, &tokens);
    assert_eq!(cache.len(), tokens.len());
    let (mut cache, mut logits) = prefill(&decoder, &tokens[..1]);
    for &token in &tokens[1..] {
        logits = decode_one(&decoder, token, &mut cache);
    }
    assert!(distance(&whole, &logits) < 1e-3, "{}", distance(&whole, &logits));
}

#[test]
fn extending_an_exact_cache_equals_a_longer_prompt() {
    let config = llama(json!({"max_position_embeddings": 2048}));
    let decoder = load(&config, &random_weights(&config, 16));
    let tokens = Numbers(11).tokens(PREFILL_CHUNK + 90, 160);
    let (_, whole) = prefill(&decoder, &tokens);
    let (mut cache, _) = prefill(&decoder, &tokens[..50]);
    let extended = decoder.prefill(&tokens[50..], &mut cache, &mut || true).unwrap().unwrap();
    assert_eq!(cache.len(), tokens.len());
    assert!(distance(&whole, &extended) < 1e-3, "{}", distance(&whole, &extended));
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 17));
    let mut numbers = Numbers(12);
    let prompts: Vec<Vec<u32>> = [3, 40, 17].map(|length| numbers.tokens(length, 160)).into();
    let mut alone: Vec<_> = prompts.iter().map(|prompt| prefill(&decoder, prompt).0).collect();
    let mut together: Vec<_> = prompts.iter().map(|prompt| prefill(&decoder, prompt).0).collect();
    for _ in 0..5 {
        let tokens = numbers.tokens(3, 160);
        let mut batch: Vec<_> = together.iter_mut().collect();
        let logits = decoder.decode(&tokens, &mut batch).unwrap();
        for ((&token, cache), logits) in tokens.iter().zip(&mut alone).zip(logits) {
            let off = distance(&logits, &decode_one(&decoder, token, cache));
            assert!(off < 1e-4, "{off}");
        }
    }
    assert!(decoder.decode(&[], &mut []).unwrap().is_empty());
}

#[test]
fn prefill_stops_between_units_when_told_to() {
    let config = llama(json!({"max_position_embeddings": 2048}));
    let decoder = load(&config, &random_weights(&config, 18));
    let tokens = Numbers(13).tokens(PREFILL_CHUNK * 2 + 1, 160);
    let asked = Cell::new(0);
    let stop_at = |limit: usize| {
        asked.set(0);
        let mut cache = decoder.new_cache(&exact(), tokens.len()).unwrap();
        let mut keep_going = || {
            asked.set(asked.get() + 1);
            asked.get() <= limit
        };
        decoder.prefill(&tokens, &mut cache, &mut keep_going).unwrap()
    };
    assert!(stop_at(usize::MAX).is_some());
    let steps = (3 * tokens.len()).div_ceil(PREFILL_CHUNK);
    assert_eq!(asked.get(), steps, "3 layers, a chunk at a time");
    assert!(stop_at(4).is_none());
    assert_eq!(asked.get(), 5);
}

#[test]
fn tokens_outside_the_vocabulary_and_empty_prompts_are_refused() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 19));
    let mut cache = decoder.new_cache(&exact(), 2).unwrap();
    let error = decoder.prefill(&[1, 160], &mut cache, &mut || true).unwrap_err();
    assert!(matches!(error, ModelError::Token { id: 160, vocab_size: 160 }), "{error}");
    assert!(decoder.prefill(&[], &mut cache, &mut || true).is_err());
    assert!(decoder.prefill(&[1], &mut cache, &mut || true).is_err(), "half a prompt");
    decoder.prefill(&[1, 2], &mut cache, &mut || true).unwrap().unwrap();
}

#[test]
fn dummy_weights_depend_on_the_seed_alone() {
    let config = DecoderConfig::from_json(&llama(json!({})).to_string()).unwrap();
    let tokens = Numbers(14).tokens(10, 160);
    let logits =
        |seed| prefill(&load_dummy(&config, WeightFormat::Auto, seed, &Device::Cpu, &()).unwrap(), &tokens).1;
    assert_eq!(logits(1), logits(1));
    assert!(distance(&logits(1), &logits(2)) > 1e-3);
    assert!(logits(1).iter().all(|logit| logit.is_finite()));
}
