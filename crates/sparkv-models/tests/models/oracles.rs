//! Our logits against those of candle-transformers' models, on small random weights of every variant.
use crate::common::{
    Numbers, Weights, decode_one, distance, gguf, llama, load, prefill, qwen, random_weights,
};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    llama as oracle_llama, mistral as oracle_mistral, quantized_llama, qwen2 as oracle_qwen2,
    qwen3 as oracle_qwen3,
};
use serde_json::{Value, json};
use sparkv_models::{Decoder, DecoderConfig, GgufFile, GgufWeights, WeightFormat};

const PROMPT: usize = 37;
const STEPS: usize = 12;

/// Both compute in f32, in another order; logits are of the order of 1.
const TOLERANCE: f32 = 2e-4;

/// Activations are rounded to 8 bits on the way into quantized matrices: here every 32 by themselves, by Candle every 256 of
/// them for some types. One layer, logits of the order of 10.
const TOLERANCE_QUANTIZED: f32 = 0.4;

/// Runs prompt and steps through both; `oracle` gives the logits of the last of the tokens from a position on.
fn compare(decoder: &Decoder, tolerance: f32, mut oracle: impl FnMut(&[u32], usize) -> Vec<f32>) {
    let mut numbers = Numbers(7);
    let tokens = numbers.tokens(PROMPT + STEPS, 160);
    let (prompt, steps) = tokens.split_at(PROMPT);
    let (mut cache, logits) = prefill(decoder, prompt);
    let expected = oracle(prompt, 0);
    let spread = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(spread > 0.5, "logits of {spread} say nothing");
    assert!(distance(&logits, &expected) < tolerance, "prompt: {}", distance(&logits, &expected));
    for (index, &token) in steps.iter().enumerate() {
        let logits = decode_one(decoder, token, &mut cache);
        let off = distance(&logits, &oracle(&[token], PROMPT + index));
        assert!(off < tolerance, "step {index}: {off}");
    }
}

fn ids(tokens: &[u32]) -> Tensor {
    Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn values(logits: Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn compare_with_llama(changes: Value) {
    let config = llama(changes);
    let weights = random_weights(&config, 1);
    let oracle_config: oracle_llama::LlamaConfig = serde_json::from_value(config.clone()).unwrap();
    let oracle_config = oracle_config.into_config(false);
    let vars = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let oracle = oracle_llama::Llama::load(vars, &oracle_config).unwrap();
    let mut cache = oracle_llama::Cache::new(true, DType::F32, &oracle_config, &Device::Cpu).unwrap();
    compare(&load(&config, &weights), TOLERANCE, |tokens, position| {
        values(oracle.forward(&ids(tokens), position, &mut cache).unwrap())
    });
}

#[test]
fn llama_with_grouped_queries() {
    compare_with_llama(json!({}));
    compare_with_llama(json!({"num_key_value_heads": 1}));
}

#[test]
fn llama_with_a_kv_head_for_each_query_head() {
    compare_with_llama(json!({"num_key_value_heads": 4}));
}

#[test]
fn llama_with_tied_embeddings() {
    compare_with_llama(json!({"tie_word_embeddings": true}));
}

#[test]
fn llama_with_llama3_rope_scaling() {
    // An original context this short puts frequencies on all three branches.
    compare_with_llama(
        json!({"hidden_size": 128, "num_attention_heads": 2, "rope_theta": 500_000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }}),
    );
}

fn mistral(changes: Value) -> Value {
    let mut config = llama(changes);
    config["architectures"] = json!(["MistralForCausalLM"]);
    config
}

fn mistral_oracle(config: &Value, weights: &Weights) -> oracle_mistral::Model {
    let config: oracle_mistral::Config = serde_json::from_value(config.clone()).unwrap();
    let vars = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    oracle_mistral::Model::new(&config, vars).unwrap()
}

#[test]
fn mistral_with_explicit_head_dim() {
    for head_dim in [8, 32] {
        let config = mistral(json!({"head_dim": head_dim, "sliding_window": null}));
        let weights = random_weights(&config, 2);
        let mut oracle = mistral_oracle(&config, &weights);
        compare(&load(&config, &weights), TOLERANCE, |tokens, position| {
            values(oracle.forward(&ids(tokens), position).unwrap())
        });
    }
}

#[test]
fn mistral_with_a_sliding_window() {
    const WINDOW: usize = 9;
    let config = mistral(json!({"sliding_window": WINDOW}));
    let weights = random_weights(&config, 3);
    // Candle's model lets a query see `sliding_window` positions besides its own, transformers one less; and
    // it forgets the window when it decodes, so it is given the whole text each time.
    let mut narrower = config.clone();
    narrower["sliding_window"] = json!(WINDOW - 1);
    let mut oracle = mistral_oracle(&narrower, &weights);
    let mut text: Vec<u32> = Vec::new();
    compare(&load(&config, &weights), TOLERANCE, |tokens, _| {
        text.extend(tokens);
        oracle.clear_kv_cache();
        values(oracle.forward(&ids(&text), 0).unwrap())
    });
    // The window matters at all.
    let mut unlimited = config.clone();
    unlimited["sliding_window"] = Value::Null;
    let tokens = Numbers(7).tokens(PROMPT, 160);
    let (_, limited) = prefill(&load(&config, &weights), &tokens);
    let (_, all) = prefill(&load(&unlimited, &weights), &tokens);
    assert!(distance(&limited, &all) > 100.0 * TOLERANCE);
}

/// The model as safetensors and as GGUF.
fn in_both_formats(config: &Value, weights: &Weights, architecture: &str) -> [Decoder; 2] {
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tensors = gguf::tensors_of(architecture, &checked, weights, GgmlDType::F32);
    gguf::write(&path, &gguf::shape_of(architecture, &checked), &tensors);
    let file = GgufFile::open(&path).unwrap();
    let read = file.config().unwrap();
    assert_eq!(read, checked);
    let source = GgufWeights::new(&file, &read);
    [load(config, weights), Decoder::load(&read, &source, WeightFormat::F32, &Device::Cpu, &()).unwrap()]
}

/// `oracle` makes a model that gives the logits of the last of the tokens from a position on.
fn compare_with_qwen<F: FnMut(&Tensor, usize) -> candle_core::Result<Tensor>>(
    config: &Value,
    seed: u64,
    architecture: &str,
    oracle: impl Fn(VarBuilder<'_>) -> F,
) {
    let weights = random_weights(config, seed);
    for decoder in in_both_formats(config, &weights, architecture) {
        let mut forward = oracle(VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu));
        compare(&decoder, TOLERANCE, |tokens, position| values(forward(&ids(tokens), position).unwrap()));
    }
}

#[test]
fn qwen2_with_biases_of_q_k_and_v() {
    for tied in [false, true] {
        let config = qwen(2, json!({"tie_word_embeddings": tied}));
        let oracle_config: oracle_qwen2::Config = serde_json::from_value(config.clone()).unwrap();
        compare_with_qwen(&config, 6, "qwen2", |vars| {
            let mut oracle = oracle_qwen2::ModelForCausalLM::new(&oracle_config, vars).unwrap();
            move |ids, position| oracle.forward(ids, position)
        });
    }
}

#[test]
fn qwen3_with_normalized_queries_and_keys() {
    for tied in [false, true] {
        let changes = json!({"tie_word_embeddings": tied, "head_dim": 128, "attention_bias": false});
        let config = qwen(3, changes);
        let oracle_config: oracle_qwen3::Config = serde_json::from_value(config.clone()).unwrap();
        compare_with_qwen(&config, 7, "qwen3", |vars| {
            let mut oracle = oracle_qwen3::ModelForCausalLM::new(&oracle_config, vars).unwrap();
            move |ids, position| oracle.forward(ids, position)
        });
    }
}

fn compare_with_quantized_llama(changes: Value, dtype: GgmlDType, tolerance: f32) {
    let config = llama(changes);
    let weights = random_weights(&config, 4);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    gguf::write(&path, &gguf::shape(&checked), &gguf::tensors(&checked, &weights, dtype));

    let mut reader = std::fs::File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut oracle = quantized_llama::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();

    let file = GgufFile::open(&path).unwrap();
    let read = file.config().unwrap();
    assert_eq!(read, checked);
    let format =
        if matches!(dtype, GgmlDType::F32 | GgmlDType::F16) { WeightFormat::F32 } else { WeightFormat::Auto };
    let decoder = Decoder::load(&read, &GgufWeights::new(&file, &read), format, &Device::Cpu, &()).unwrap();
    compare(&decoder, tolerance, |tokens, position| values(oracle.forward(&ids(tokens), position).unwrap()));
}

#[test]
fn gguf_in_every_supported_type() {
    for dtype in [GgmlDType::F32, GgmlDType::F16] {
        compare_with_quantized_llama(json!({}), dtype, TOLERANCE);
    }
    let fast =
        [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q3K, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K];
    for dtype in fast {
        let wide = json!({"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1});
        compare_with_quantized_llama(wide, dtype, TOLERANCE_QUANTIZED);
    }
}

/// Whatever the format in which they are then held.
#[test]
fn gguf_of_every_type_means_the_values_that_candle_reads() {
    let config = llama(json!({"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}));
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let weights = random_weights(&config, 8);
    let tokens = Numbers(8).tokens(PROMPT, 160);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let blocks_of_32 = [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0];
    let blocks_of_256 = [GgmlDType::Q2K, GgmlDType::Q3K, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K];
    for dtype in blocks_of_32.into_iter().chain(blocks_of_256) {
        gguf::write(&path, &gguf::shape(&checked), &gguf::tensors(&checked, &weights, dtype));
        let file = GgufFile::open(&path).unwrap();
        let logits = |format| {
            let source = GgufWeights::new(&file, &checked);
            prefill(&Decoder::load(&checked, &source, format, &Device::Cpu, &()).unwrap(), &tokens).1
        };
        let read = |(name, tensor): (&String, &Tensor)| {
            let blocks = if tensor.rank() == 2 {
                QTensor::quantize(tensor, dtype).unwrap().dequantize(&Device::Cpu).unwrap()
            } else {
                tensor.clone()
            };
            (name.clone(), blocks)
        };
        let expected = prefill(&load(&config, &weights.iter().map(read).collect()), &tokens).1;
        let off = distance(&logits(WeightFormat::F32), &expected);
        assert!(off < TOLERANCE, "{dtype:?}: {off}");
        let spread = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let off = distance(&logits(WeightFormat::Auto), &expected) / spread;
        assert!(off > 0.0 && off < 0.1, "{dtype:?}: {off}");
    }
}

#[test]
fn auto_quantizes_what_a_gguf_file_holds_dense_and_keeps_the_rest() {
    let config = llama(json!({"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}));
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let weights = random_weights(&config, 5);
    let folder = tempfile::tempdir().unwrap();
    let logits = |stored: GgmlDType, format: WeightFormat| {
        let path = folder.path().join("model.gguf");
        gguf::write(&path, &gguf::shape(&checked), &gguf::tensors(&checked, &weights, stored));
        let file = GgufFile::open(&path).unwrap();
        let decoder =
            Decoder::load(&checked, &GgufWeights::new(&file, &checked), format, &Device::Cpu, &()).unwrap();
        prefill(&decoder, &Numbers(8).tokens(PROMPT, 160)).1
    };
    for stored in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
        let auto = logits(stored, WeightFormat::Auto);
        assert_eq!(auto, logits(stored, WeightFormat::Q8_0), "{stored:?}");
        assert_ne!(auto, logits(stored, WeightFormat::F32), "{stored:?}");
    }
    assert_ne!(logits(GgmlDType::Q4K, WeightFormat::Auto), logits(GgmlDType::Q4K, WeightFormat::Q8_0));
}

#[test]
fn gguf_with_tied_embeddings() {
    compare_with_quantized_llama(json!({"tie_word_embeddings": true}), GgmlDType::F32, TOLERANCE);
    let one_layer = json!({"tie_word_embeddings": true, "num_hidden_layers": 1});
    compare_with_quantized_llama(one_layer, GgmlDType::Q8_0, TOLERANCE_QUANTIZED);
}
