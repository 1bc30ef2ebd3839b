//! Token for token what transformers gives in f32, on trained models.
use std::path::Path;

use crate::common::{demo_folder, gguf, greedy, read_json, shared_model};
use candle_core::quantized::{GgmlDType, gguf_file};
use serde_json::Value;
use sparkv_models::{
    DecoderConfig, LanguageModel, LoadOptions, LoadedModel, ModelSource, WeightFormat, load,
};

fn open(source: &ModelSource, weights: WeightFormat) -> LoadedModel {
    load(source, &LoadOptions { weights, ..LoadOptions::default() }, &()).unwrap()
}

fn ids(json: &Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// How greedy tokens compare with the golden ones, over all cases.
#[derive(Debug, Default)]
struct Agreement {
    /// Cases whose tokens are all equal.
    equal_cases: usize,
    cases: usize,
    /// Largest difference of the first token's best 8 logits.
    logits_off: f32,
}

/// Runs the cases of `golden`, prompts given as text.
fn compare(model: &LoadedModel, golden: &Value) -> Agreement {
    let mut agreement = Agreement::default();
    for case in golden["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let encoded = model.text.tokenizer.encode(prompt, true).unwrap();
        assert_eq!(encoded.get_ids(), ids(&case["prompt_ids"]), "{prompt:?}");
        let expected = ids(&case["completion_ids"]);
        let steps = greedy(&model.decoder, encoded.get_ids(), expected.len());
        for top in case["last_prompt_top8"].as_array().unwrap() {
            let logit = steps[0].1[top[0].as_u64().unwrap() as usize];
            let off = (logit - top[1].as_f64().unwrap() as f32).abs();
            agreement.logits_off = agreement.logits_off.max(off);
        }
        let tokens: Vec<u32> = steps.into_iter().map(|(token, _)| token).collect();
        agreement.cases += 1;
        if tokens == expected {
            agreement.equal_cases += 1;
            let text = model.text.tokenizer.decode(&tokens, true).unwrap();
            assert_eq!(text.trim(), case["completion_text"].as_str().unwrap().trim());
        }
    }
    agreement
}

fn assert_exact(model: &LoadedModel, golden: &Value) {
    let agreement = compare(model, golden);
    assert_eq!(agreement.equal_cases, agreement.cases, "{agreement:?}");
    assert!(agreement.cases >= 4 && agreement.logits_off < 1e-3, "{agreement:?}");
}

#[test]
fn stories260k_equals_transformers() {
    let Some(folder) = shared_model("stories260K") else { return };
    let golden = read_json(&folder.join("golden.json"));
    assert!(golden["cases"].as_array().unwrap().iter().all(|case| ids(&case["completion_ids"]).len() == 160));
    let model = open(&ModelSource::Folder(folder), WeightFormat::F32);
    assert_eq!(model.decoder.info().eos_token_ids, [2, 1]);
    assert_exact(&model, &golden);
}

#[test]
fn stories260k_from_gguf_equals_transformers() {
    let Some(folder) = shared_model("stories260K") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("stories260K.gguf");
    write_gguf(
        &folder,
        &path,
        GgmlDType::F32,
        &gguf::sentencepiece(&read_json(&folder.join("tokenizer.json"))),
    );
    let model = open(&ModelSource::Gguf(path), WeightFormat::F32);
    assert_eq!(model.name, "stories260K");
    assert_exact(&model, &read_json(&folder.join("golden.json")));
}

fn write_gguf(folder: &Path, path: &Path, dtype: GgmlDType, tokenizer: &gguf::Metadata) {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = DecoderConfig::from_json(&config).unwrap();
    let device = candle_core::Device::Cpu;
    let weights = candle_core::safetensors::load(folder.join("model.safetensors"), &device).unwrap();
    let mut metadata = gguf::shape(&config);
    metadata.extend(tokenizer.iter().cloned());
    gguf::write(path, &metadata, &gguf::tensors(&config, &weights, dtype));
}

fn demo_golden() -> Value {
    read_json(&demo_folder().join("golden.json"))
}

#[test]
fn the_demo_model_equals_transformers() {
    let golden = demo_golden();
    let embedded = open(&ModelSource::Demo, WeightFormat::F32);
    assert_exact(&embedded, &golden);
    assert!(embedded.text.chat_template.is_some());
    assert_eq!(embedded.text.eos_token.as_deref(), Some("<|end|>"));
    assert_exact(&open(&ModelSource::Folder(demo_folder()), WeightFormat::F32), &golden);
    // Its file is f16, so holding it so loses nothing.
    assert_exact(&open(&ModelSource::Demo, WeightFormat::F16), &golden);
}

#[test]
fn the_demo_model_from_gguf_equals_transformers() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("demo.gguf");
    let tokenizer = gguf::byte_level(&read_json(&demo_folder().join("tokenizer.json")), "llama-bpe", 0, 1);
    write_gguf(&demo_folder(), &path, GgmlDType::F16, &tokenizer);
    let model = open(&ModelSource::Gguf(path.clone()), WeightFormat::F16);
    assert_eq!(model.decoder.info().eos_token_ids, [1]);
    assert_exact(&model, &demo_golden());
    assert_exact(&open(&ModelSource::Gguf(path), WeightFormat::F32), &demo_golden());
}

/// Quantized weights are other weights: tokens may differ where two logits are close. This states by how much.
#[test]
fn the_demo_model_quantized_differs_by_little() {
    let golden = demo_golden();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("demo.gguf");
    let tokenizer = gguf::byte_level(&read_json(&demo_folder().join("tokenizer.json")), "llama-bpe", 0, 1);
    write_gguf(&demo_folder(), &path, GgmlDType::Q8_0, &tokenizer);
    let from_gguf = compare(&open(&ModelSource::Gguf(path), WeightFormat::Auto), &golden);
    let q8_0 = compare(&open(&ModelSource::Demo, WeightFormat::Auto), &golden);
    let q4k = compare(&open(&ModelSource::Demo, WeightFormat::Q4K), &golden);
    println!("gguf q8_0 {from_gguf:?}\nq8_0 {q8_0:?}\nq4k {q4k:?}");
    for agreement in [&from_gguf, &q8_0] {
        assert!(agreement.logits_off > 0.0 && agreement.logits_off < 0.5, "{agreement:?}");
        assert!(agreement.equal_cases + 2 >= agreement.cases, "{agreement:?}");
    }
    assert!(q4k.logits_off > q8_0.logits_off, "{q4k:?}");
}

#[test]
fn a_gguf_header_says_the_same_as_config_json() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.gguf");
    let read = |metadata: &gguf::Metadata, tensors| {
        gguf::write(&path, metadata, tensors);
        sparkv_models::GgufFile::open(&path).unwrap().config().unwrap()
    };
    let json = crate::common::llama(serde_json::json!({
        "architectures": ["MistralForCausalLM"], "sliding_window": 99, "rope_theta": 77.0,
        "rope_scaling": {"type": "linear", "factor": 4.0}, "eos_token_id": [2, 5],
    }));
    let config = DecoderConfig::from_json(&json.to_string()).unwrap();
    let tensors = gguf::tensors(&config, &crate::common::random_weights(&json, 1), GgmlDType::F32);
    let mut metadata = gguf::shape(&config);
    // Without these two, keys are as long as the heads divide the hidden states.
    metadata.retain(|(key, _)| !key.ends_with("key_length") && !key.ends_with("value_length"));
    let text = |text: &str| gguf_file::Value::String(text.to_owned());
    metadata.extend([
        ("llama.attention.sliding_window".to_owned(), gguf_file::Value::U32(99)),
        ("llama.rope.scaling.type".to_owned(), text("linear")),
        ("llama.rope.scaling.factor".to_owned(), gguf_file::Value::F32(4.0)),
        ("tokenizer.ggml.eos_token_id".to_owned(), gguf_file::Value::U32(2)),
        ("tokenizer.ggml.eot_token_id".to_owned(), gguf_file::Value::U32(5)),
    ]);
    assert_eq!(read(&metadata, &tensors), config);
}
