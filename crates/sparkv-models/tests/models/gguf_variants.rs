//! GGUF files as different converters write them.
use std::path::{Path, PathBuf};

use crate::common::{decode_one, demo_folder, gguf, llama, prefill, random_weights, read_json};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file::Value};
use serde_json::json;
use sparkv_models::config::{AdvisedSampling, RopeScaling};
use sparkv_models::{
    DecoderConfig, GgufFile, LanguageModel, LoadError, LoadOptions, LoadedModel, ModelSource, load,
};
use tempfile::TempDir;

type Tensors = Vec<(String, QTensor)>;

/// A small model with the demo model's tokenizer.
fn parts(changes: serde_json::Value) -> (gguf::Metadata, Tensors) {
    let demo = read_json(&demo_folder().join("config.json"));
    let mut config = llama(changes);
    config["vocab_size"] = demo["vocab_size"].clone();
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let tensors = gguf::tensors(&checked, &random_weights(&config, 22), GgmlDType::F32);
    let mut metadata = gguf::shape(&checked);
    metadata.extend(gguf::byte_level(&read_json(&demo_folder().join("tokenizer.json")), "llama-bpe", 0, 1));
    (metadata, tensors)
}

fn set(metadata: &mut gguf::Metadata, key: &str, value: Value) {
    metadata.retain(|(name, _)| name != key);
    metadata.push((key.to_owned(), value));
}

fn open(path: &Path) -> Result<LoadedModel, LoadError> {
    load(&ModelSource::Gguf(path.to_owned()), &LoadOptions::default(), &())
}

/// The model with these values in place of others.
fn with(values: &[(&str, Value)]) -> Result<LoadedModel, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (mut metadata, tensors) = parts(json!({"num_hidden_layers": 1}));
    for (key, value) in values {
        set(&mut metadata, key, value.clone());
    }
    gguf::write(&path, &metadata, &tensors);
    open(&path)
}

fn logits(model: &LoadedModel) -> Vec<f32> {
    let (mut cache, _) = prefill(&model.decoder, &[3, 14, 15, 9, 26]);
    decode_one(&model.decoder, 5, &mut cache)
}

#[test]
fn minus_one_is_no_token_in_any_type_that_can_say_it() {
    for none in [Value::I32(-1), Value::I64(-1), Value::I8(-1), Value::I16(-1), Value::U32(u32::MAX)] {
        let model = with(&[("tokenizer.ggml.bos_token_id", none.clone())]).unwrap();
        assert_eq!(model.text.bos_token, None, "{none:?}");
        assert_eq!(model.decoder.info().eos_token_ids, [1]);
        assert_eq!(model.text.tokenizer.encode("", true).unwrap().get_ids(), [0u32; 0], "{none:?}");
        let model = with(&[("tokenizer.ggml.eos_token_id", none.clone())]).unwrap();
        assert_eq!(model.text.eos_token, None, "{none:?}");
        // The tokenizer has <|end|>, which is known by its text.
        assert_eq!(model.decoder.info().eos_token_ids, [1]);
    }
    for wrong in [Value::I32(-2), Value::F32(1.0), Value::U64(1 << 33)] {
        let message = with(&[("tokenizer.ggml.bos_token_id", wrong)]).unwrap_err().to_string();
        assert!(message.contains("`tokenizer.ggml.bos_token_id` is not a token's id"), "{message}");
    }
}

#[test]
fn turns_end_at_stated_tokens_and_at_special_ones_known_by_their_texts() {
    let ends = |texts: &[(&str, i32)], values: &[(&str, Value)]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let (mut metadata, tensors) = parts(json!({"num_hidden_layers": 1}));
        for (key, value) in values {
            set(&mut metadata, key, value.clone());
        }
        let array = |key: &str| match metadata.iter().find(|(name, _)| name == key) {
            Some((_, Value::Array(values))) => values.clone(),
            other => panic!("{other:?}"),
        };
        let [mut tokens, mut types] = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"].map(array);
        // In place of words at the end, which no merge needs.
        for (at, (text, kind)) in texts.iter().enumerate() {
            let id = tokens.len() - 1 - at;
            tokens[id] = Value::String((*text).to_owned());
            types[id] = Value::I32(*kind);
        }
        let merges = array("tokenizer.ggml.merges");
        set(&mut metadata, "tokenizer.ggml.merges", Value::Array(merges[..10].to_vec()));
        let last = tokens.len() as u32 - 1;
        set(&mut metadata, "tokenizer.ggml.tokens", Value::Array(tokens));
        set(&mut metadata, "tokenizer.ggml.token_type", Value::Array(types));
        gguf::write(&path, &metadata, &tensors);
        let mut ids = open(&path).unwrap().decoder.info().eos_token_ids.clone();
        ids.retain(|id| *id != 1);
        ids.into_iter().map(|id| last.wrapping_sub(id)).collect::<Vec<_>>()
    };
    let known = [
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "</s>",
        "<|endoftext|>",
        "<|end_of_text|>",
    ];
    for text in known {
        assert_eq!(ends(&[(text, 3)], &[]), [0], "{text}, a control token");
        for kind in [1, 4, 6] {
            assert!(ends(&[(text, kind)], &[]).is_empty(), "{text}, of type {kind}");
        }
    }
    let both = known.map(|text| (text, 3));
    assert_eq!(ends(&both, &[]).len(), known.len());
    assert!(ends(&[("<|im_start|>", 3), ("<|im_end", 3), ("im_end", 3)], &[]).is_empty());
    let stated =
        [("tokenizer.ggml.eot_token_id", Value::U32(7)), ("tokenizer.ggml.eom_token_id", Value::I32(-1))];
    assert_eq!(ends(&[("<|im_end|>", 3)], &stated).len(), 2);
}

#[test]
fn arrays_of_one_value_stand_for_the_value() {
    let reference = logits(&with(&[]).unwrap());
    let array = |value: &Value, count| Value::Array(vec![value.clone(); count]);
    let (metadata, _) = parts(json!({"num_hidden_layers": 1}));
    let scalars = metadata.iter().filter(|(_, value)| !matches!(value, Value::Array(_)));
    let mut tried = 0;
    for (key, value) in scalars {
        for count in [1, 3] {
            let model = with(&[(key, array(value, count))]).unwrap();
            assert_eq!(logits(&model), reference, "{key}");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
    let key = "llama.attention.head_count_kv";
    for wrong in [vec![], vec![Value::U32(2), Value::U32(1)], vec![Value::String("2".to_owned())]] {
        let message = with(&[(key, Value::Array(wrong))]).unwrap_err().to_string();
        assert!(message.contains("`llama.attention.head_count_kv` is not one number"), "{message}");
    }
}

#[test]
fn sampling_is_advised_as_llama_cpp_reads_it() {
    let key = |name: &str| format!("general.sampling.{name}");
    assert!(with(&[]).unwrap().sampling.is_empty());
    let values = [
        (key("temp"), Value::F32(0.6)),
        (key("top_p"), Value::F32(0.9)),
        (key("top_k"), Value::I32(20)),
        (key("penalty_repeat"), Value::F32(1.1)),
    ];
    let values: Vec<(&str, Value)> =
        values.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let sampling = with(&values).unwrap().sampling;
    let expected = AdvisedSampling {
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(20),
        min_p: None,
        repetition_penalty: Some(1.1),
    };
    assert_eq!(sampling, expected);
    let message = with(&[("general.sampling.temp", Value::F32(-1.0))]).unwrap_err().to_string();
    assert!(message.contains("temperature"), "{message}");
}

#[test]
fn a_rope_factor_of_zero_is_none() {
    let scaling = |values: &[(&str, Value)]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let (mut metadata, tensors) = parts(json!({"num_hidden_layers": 1}));
        values.iter().for_each(|(key, value)| set(&mut metadata, key, value.clone()));
        gguf::write(&path, &metadata, &tensors);
        GgufFile::open(&path).unwrap().config().unwrap().rope.scaling
    };
    let kind = ("llama.rope.scaling.type", Value::String("linear".to_owned()));
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        for (factor, expected) in [
            (0.0, RopeScaling::None),
            (-0.0, RopeScaling::None),
            (1.0, RopeScaling::None),
            (4.0, RopeScaling::Linear { factor: 4.0 }),
        ] {
            let factor = (key, Value::F32(factor));
            assert_eq!(scaling(std::slice::from_ref(&factor)), expected, "{factor:?}");
            assert_eq!(scaling(&[kind.clone(), factor.clone()]), expected, "{factor:?}");
        }
    }
}

#[test]
fn each_matrix_of_attention_has_a_bias_or_none() {
    let all = ["attn_q", "attn_k", "attn_v", "attn_output"];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (metadata, tensors) = parts(json!({"attention_bias": true}));
    let mut seen = Vec::new();
    for chosen in 0..1 << all.len() {
        let is_left_out = |name: &str| {
            all.iter()
                .enumerate()
                .any(|(at, module)| chosen >> at & 1 == 0 && name.ends_with(&format!("{module}.bias")))
        };
        let tensors: Vec<(&str, &QTensor)> = tensors
            .iter()
            .filter(|(name, _)| !is_left_out(name))
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let mut file = std::fs::File::create(&path).unwrap();
        candle_core::quantized::gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        let config = GgufFile::open(&path).unwrap().config().unwrap();
        let [q, k, v] = config.attention_bias;
        let found = [q, k, v, config.attention_output_bias];
        assert_eq!(found, [0, 1, 2, 3].map(|at| chosen >> at & 1 == 1));
        let logits = logits(&open(&path).unwrap());
        assert!(!seen.contains(&logits), "{found:?} computes as another does");
        seen.push(logits);
    }
}

#[test]
fn pre_tokenizers_go_by_all_names_that_llama_cpp_has_for_them() {
    let vocabulary = read_json(&demo_folder().join("tokenizer.json"));
    // Whether texts begin with a token for that, where the file does not say, and the names.
    let groups: [(bool, &[&str]); 7] = [
        (true, &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"]),
        (false, &["dbrx", "smaug-bpe"]),
        (
            false,
            &["gpt-2", "phi-2", "jina-es", "jina-v2-de", "gigachat", "mpt", "olmo", "exaone4", "modern-bert"],
        ),
        (false, &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"]),
        (false, &["qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open"]),
        (true, &["tekken"]),
        (false, &["default", ""]),
    ];
    let text = "They'RE 12345 (a.b)\n\n  ÉtéHOT don't/";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    let read = |pre: &str| {
        let mut metadata = gguf::byte_level(&vocabulary, pre, 0, 1);
        metadata.retain(|(key, _)| key != "tokenizer.ggml.add_bos_token");
        gguf::write(&path, &metadata, &[]);
        let tokenizer = GgufFile::open(&path).unwrap().text_files().unwrap().tokenizer;
        let encoding = tokenizer.encode(text, true).unwrap();
        (encoding.get_ids().to_vec(), encoding.get_word_ids().to_vec())
    };
    let mut firsts = Vec::new();
    for (adds_bos, names) in groups {
        let first = read(names[0]);
        for name in names {
            let found = read(name);
            assert_eq!(found, first, "{name} as {}", names[0]);
            assert_eq!(found.0.first() == Some(&0), adds_bos, "{name}");
        }
        firsts.push(first);
    }
    let distinct: std::collections::BTreeSet<_> = firsts.iter().collect();
    assert_eq!(distinct.len(), firsts.len(), "groups differ");
}

#[test]
fn templates_by_name() {
    let key = |name: &str| format!("tokenizer.chat_template.{name}");
    let text = |text: &str| Value::String(text.to_owned());
    // The default, the names of others, and which of them is for all conversations and which for those with tools.
    type Case = (Option<&'static str>, &'static [&'static str], Option<&'static str>, Option<&'static str>);
    let cases: [Case; 5] = [
        (None, &[], None, None),
        (Some("main"), &[], Some("main"), None),
        (Some("main"), &["tool_use", "rag"], Some("main"), Some("tool_use")),
        (None, &["chatml"], Some("chatml"), None),
        (None, &["tool_use"], Some("tool_use"), Some("tool_use")),
    ];
    for (default, names, chosen, tool_use) in cases {
        let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
        let mut values: Vec<(&str, Value)> =
            keys.iter().zip(names).map(|(key, name)| (key.as_str(), text(name))).collect();
        if !names.is_empty() {
            let names = names.iter().map(|name| text(name)).collect();
            values.push(("tokenizer.chat_templates", Value::Array(names)));
        }
        values.extend(default.map(|default| ("tokenizer.chat_template", text(default))));
        let files = with(&values).unwrap().text;
        assert_eq!((files.chat_template.as_deref(), files.tool_use_template.as_deref()), (chosen, tool_use));
    }
}

#[test]
fn a_file_is_known_by_what_it_begins_with() {
    let folder = tempfile::tempdir().unwrap();
    let (metadata, tensors) = parts(json!({"num_hidden_layers": 1}));
    for (file, name) in [("model", "model"), ("tiny.Q4_K_M", "tiny.Q4_K_M"), ("tiny.Q8_0.gguf", "tiny.Q8_0")]
    {
        let path = folder.path().join(file);
        gguf::write(&path, &metadata, &tensors);
        let source: ModelSource = path.to_str().unwrap().parse().unwrap();
        assert_eq!(load(&source, &LoadOptions::default(), &()).unwrap().name, name);
    }
}

/// The small model in `count` parts, as llama.cpp's gguf-split writes them.
fn split(count: usize, first_is_empty: bool) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let (metadata, tensors) = parts(json!({}));
    let total = tensors.len();
    let mut pieces: Vec<Tensors> = (0..count).map(|_| Vec::new()).collect();
    let empty = usize::from(first_is_empty);
    for (index, tensor) in tensors.into_iter().enumerate() {
        pieces[empty + index % (count - empty)].push(tensor);
    }
    let paths = (0..count).map(|part| {
        let mut metadata = if part == 0 { metadata.clone() } else { Vec::new() };
        metadata.push(("split.no".to_owned(), Value::U16(part as u16)));
        metadata.push(("split.count".to_owned(), Value::U16(count as u16)));
        metadata.push(("split.tensors.count".to_owned(), Value::I32(total as i32)));
        let path = folder.path().join(format!("tiny-{:05}-of-{count:05}.gguf", part + 1));
        gguf::write(&path, &metadata, &pieces[part]);
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

#[test]
fn a_model_in_parts_is_the_model() {
    let whole = tempfile::tempdir().unwrap();
    let path = whole.path().join("tiny.gguf");
    let (metadata, tensors) = parts(json!({}));
    gguf::write(&path, &metadata, &tensors);
    let expected = logits(&open(&path).unwrap());
    for (count, first_is_empty) in [(1, false), (2, false), (3, false), (3, true), (7, true)] {
        let (_folder, paths) = split(count, first_is_empty);
        for path in &paths {
            let model = open(path).unwrap();
            assert_eq!(logits(&model), expected, "{}", path.display());
            assert_eq!(model.name, "tiny");
        }
    }
}

#[test]
fn what_is_wrong_with_parts_is_named() {
    for missing in 0..3 {
        let (_folder, paths) = split(3, false);
        std::fs::remove_file(&paths[missing]).unwrap();
        for path in paths.iter().filter(|path| path.exists()) {
            let error = open(path).unwrap_err();
            let name = paths[missing].file_name().unwrap();
            assert!(matches!(&error, LoadError::MissingFile { file, .. } if **file == *name), "{error}");
        }
    }
    let (_folder, paths) = split(3, false);
    std::fs::copy(&paths[1], &paths[2]).unwrap();
    let message = open(&paths[0]).unwrap_err().to_string();
    assert!(message.contains("00003-of-00003") && message.contains("no part of this model"), "{message}");

    let (_folder, paths) = split(2, false);
    let mut metadata = parts(json!({})).0;
    metadata.push(("split.no".to_owned(), Value::U16(0)));
    metadata.push(("split.count".to_owned(), Value::U16(2)));
    metadata.push(("split.tensors.count".to_owned(), Value::I32(30)));
    gguf::write(&paths[0], &metadata, &[]);
    let message = open(&paths[0]).unwrap_err().to_string();
    assert!(message.contains("tensors, of 30"), "{message}");

    let (folder, paths) = split(2, false);
    let renamed = folder.path().join("model.gguf");
    std::fs::rename(&paths[1], &renamed).unwrap();
    let message = open(&renamed).unwrap_err().to_string();
    assert!(message.contains("MODEL-00002-of-00002.gguf"), "{message}");
}
