//! Files that lie: each gives an error that names what is wrong, and none a panic.
use std::path::{Path, PathBuf};

use crate::common::{Weights, demo_folder, gguf, llama, random_weights, read_json, write_folder};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file::Value as Metadatum};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use sparkv_models::config::RopeScaling;
use sparkv_models::{
    ConfigError, DecoderConfig, DeviceChoice, GgufFile, LoadError, LoadOptions, ModelSource, WeightFormat,
    load,
};
use tempfile::TempDir;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// A small model that loads, to be spoilt.
struct Model {
    folder: TempDir,
    config: Value,
    weights: Weights,
}

impl Model {
    fn new() -> Self {
        let config = llama(json!({}));
        let weights = random_weights(&config, 21);
        let folder = tempfile::tempdir().unwrap();
        write_folder(folder.path(), &config, &weights);
        std::fs::copy(demo_folder().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        Self { folder, config, weights }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn load(&self) -> Result<(), LoadError> {
        self.weight_bytes().map(|_| ())
    }

    fn weight_bytes(&self) -> Result<u64, LoadError> {
        let source = ModelSource::Folder(self.folder.path().to_owned());
        load(&source, &LoadOptions::default(), &()).map(|model| model.decoder.weight_bytes())
    }

    fn error(&self) -> LoadError {
        self.load().unwrap_err()
    }

    fn error_of_config(&self, changes: Value) -> String {
        let mut config = self.config.clone();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(self.path(CONFIG), config.to_string()).unwrap();
        let error = self.error();
        assert!(matches!(error, LoadError::Config { .. }), "{error:?}");
        error.to_string()
    }
}

#[test]
fn the_model_that_is_spoilt_below_loads() {
    Model::new().load().unwrap();
}

#[test]
fn missing_files_are_named() {
    for file in [CONFIG, "tokenizer.json", WEIGHTS] {
        let model = Model::new();
        std::fs::remove_file(model.path(file)).unwrap();
        let error = model.error();
        assert!(matches!(&error, LoadError::MissingFile { file: missing, .. } if missing == file), "{error}");
    }
}

#[test]
fn truncated_and_corrupt_safetensors_are_named() {
    let model = Model::new();
    let bytes = std::fs::read(model.path(WEIGHTS)).unwrap();
    for length in [1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(model.path(WEIGHTS), &bytes[..length]).unwrap();
        let error = model.error();
        assert!(matches!(&error, LoadError::Corrupt { file, .. } if file.ends_with(WEIGHTS)), "{error}");
    }
    std::fs::write(model.path(WEIGHTS), vec![0xFF; 4096]).unwrap();
    assert!(matches!(model.error(), LoadError::Corrupt { .. }));
    std::fs::write(model.path(WEIGHTS), b"").unwrap();
    assert!(matches!(model.error(), LoadError::Io { .. } | LoadError::Corrupt { .. }));
}

#[test]
fn missing_misshapen_and_mistyped_tensors_are_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let model = Model::new();
    let replaced = |tensor: Option<Tensor>| {
        let mut weights = model.weights.clone();
        weights.remove(name);
        weights.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        write_folder(model.folder.path(), &model.config, &weights);
        model.error()
    };
    let error = replaced(None);
    assert!(matches!(&error, LoadError::MissingTensor { name: missing } if missing == name), "{error}");
    let error = replaced(Some(Tensor::zeros((96, 32), DType::F32, &Device::Cpu).unwrap()));
    let LoadError::Shape { name: wrong, expected, found } = &error else { panic!("{error}") };
    assert_eq!((wrong.as_str(), &expected[..], &found[..]), (name, &[96, 64][..], &[96, 32][..]));
    let error = replaced(Some(Tensor::zeros((96, 64), DType::I64, &Device::Cpu).unwrap()));
    assert!(matches!(&error, LoadError::TensorType { dtype, .. } if dtype == "I64"), "{error}");
}

/// Where nothing is said of tied embeddings, weights without a head mean them.
#[test]
fn a_head_that_is_neither_there_nor_spoken_of_is_the_embedding_table() {
    let head = "lm_head.weight";
    let own_head = Model::new().weight_bytes().unwrap();
    for (flag, has_head, loads) in [
        (json!(null), false, true),
        (json!(null), true, true),
        (json!(true), false, true),
        (json!(true), true, true),
        (json!(false), false, false),
        (json!(false), true, true),
    ] {
        for is_absent in [true, false] {
            let mut model = Model::new();
            model.config["tie_word_embeddings"] = flag.clone();
            if flag.is_null() && is_absent {
                model.config.as_object_mut().unwrap().remove("tie_word_embeddings");
            }
            if !has_head {
                model.weights.remove(head);
            }
            write_folder(model.folder.path(), &model.config, &model.weights);
            match model.weight_bytes() {
                Ok(bytes) => {
                    assert!(loads, "{flag} {has_head}");
                    assert_eq!(bytes == own_head, has_head && flag != true, "{flag} {has_head}");
                }
                Err(LoadError::MissingTensor { name }) => {
                    assert!(!loads && name == head, "{flag} {has_head}")
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn sharded_files_load_and_their_faults_are_named() {
    let model = Model::new();
    std::fs::remove_file(model.path(WEIGHTS)).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (mut parts, mut map) = ([Weights::new(), Weights::new()], serde_json::Map::new());
    for (index, (name, tensor)) in model.weights.iter().enumerate() {
        parts[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(shards[index % 2]));
    }
    for (name, part) in shards.iter().zip(&parts) {
        candle_core::safetensors::save(part, model.path(name)).unwrap();
    }
    let index = model.path("model.safetensors.index.json");
    std::fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    model.load().unwrap();

    std::fs::remove_file(model.path(shards[1])).unwrap();
    assert!(matches!(model.error(), LoadError::MissingFile { file, .. } if file == shards[1]));
    std::fs::write(&index, json!({"weight_map": {"x": "../elsewhere.safetensors"}}).to_string()).unwrap();
    assert!(model.error().to_string().contains("../elsewhere"));
    std::fs::write(&index, "[").unwrap();
    assert!(matches!(model.error(), LoadError::Corrupt { .. }));
}

#[test]
fn unsupported_models_are_refused_by_name() {
    let model = Model::new();
    let refused = [
        (json!({"architectures": ["Gemma3ForCausalLM"]}), "Gemma3ForCausalLM"),
        (json!({"architectures": null, "model_type": "gpt2"}), "gpt2"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "yarn"),
        (json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}), "dynamic"),
        (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "full_attention"),
        (json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "gptq"),
        (json!({"partial_rotary_factor": 0.5}), "0.5"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "sliding_attention"),
    ];
    for (changes, name) in refused {
        let message = model.error_of_config(changes);
        assert!(message.contains("unsupported") && message.contains(name), "{message}");
    }
}

#[test]
fn another_architecture_is_named_before_its_fields_are_missed() {
    let model = Model::new();
    let gpt2 = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "layer_norm_epsilon": 1e-5,
    });
    std::fs::write(model.path(CONFIG), gpt2.to_string()).unwrap();
    let message = model.error().to_string();
    let expected =
        "unsupported architecture `GPT2LMHeadModel`: there are LlamaForCausalLM, MistralForCausalLM";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn heads_that_no_cache_takes_are_unsupported() {
    let largest = DecoderConfig::from_json(&llama(json!({"head_dim": 512})).to_string()).unwrap();
    assert_eq!(largest.head_dim, 512);
    let message = Model::new().error_of_config(json!({"head_dim": 520}));
    assert!(message.contains("unsupported head_dim `520`"), "{message}");
}

#[test]
fn rope_types_may_be_given_twice_but_not_differ() {
    let scaling = |kind: &str, old: &str| {
        let rope = json!({"rope_type": kind, "type": old, "factor": 2.0});
        DecoderConfig::from_json(&llama(json!({"rope_scaling": rope})).to_string())
    };
    let linear = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(scaling("linear", "linear").unwrap().rope.scaling, linear);
    let message = scaling("linear", "llama3").unwrap_err().to_string();
    assert!(message.contains("linear") && message.contains("llama3"), "{message}");
}

#[test]
fn what_mistral_does_not_say_is_as_in_transformers() {
    let read = |name: &str, changes: Value| {
        let mut config = llama(json!({"architectures": [name], "num_attention_heads": 16}));
        let fields = config.as_object_mut().unwrap();
        fields.remove("num_key_value_heads");
        fields.extend(changes.as_object().unwrap().clone());
        fields.insert("head_dim".to_owned(), json!(8));
        let config = DecoderConfig::from_json(&config.to_string()).unwrap();
        (config.kv_heads, config.sliding_window)
    };
    let null = || json!({"num_key_value_heads": null, "sliding_window": null});
    let stated = || json!({"num_key_value_heads": 2, "sliding_window": 100});
    assert_eq!(read("MistralForCausalLM", json!({})), (8, Some(4096)));
    assert_eq!(read("MistralForCausalLM", null()), (16, None));
    assert_eq!(read("MistralForCausalLM", stated()), (2, Some(100)));
    assert_eq!(read("LlamaForCausalLM", json!({})), (16, None));
    assert_eq!(read("LlamaForCausalLM", null()), (16, None));
    assert_eq!(read("LlamaForCausalLM", stated()), (2, None));
}

#[test]
fn absurd_configurations_are_refused_by_field() {
    let model = Model::new();
    let refused = [
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_attention_heads": 5}), "num_attention_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"head_dim": 12}), "head_dim"),
        (json!({"head_dim": 0}), "head_dim"),
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": u64::MAX, "head_dim": 16}), "hidden_size"),
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"vocab_size": -5}), "vocab_size: invalid value: integer `-5`"),
        (json!({"vocab_size": "many"}), "vocab_size: invalid type: string \"many\""),
        (json!({"rope_scaling": {"factor": "2"}}), "rope_scaling"),
        (json!({"layer_types": [1]}), "layer_types[0]"),
        (json!({"eos_token_id": "<|end|>"}), "eos_token_id: must be a token's id or a list of ids"),
        (json!({"eos_token_id": 1u64 << 40}), "eos_token_id: 1099511627776 is no token's id"),
    ];
    for (changes, field) in refused {
        let message = model.error_of_config(changes);
        assert!(message.contains(field), "{field}: {message}");
    }
    std::fs::write(model.path(CONFIG), "not json").unwrap();
    assert!(matches!(model.error(), LoadError::Config { source: ConfigError::Json(_), .. }));
}

#[test]
fn broken_tokenizers_are_named() {
    let model = Model::new();
    for text in ["", "{}", r#"{"model": {"type": "BPE"}}"#] {
        std::fs::write(model.path("tokenizer.json"), text).unwrap();
        let error = model.error();
        assert!(
            matches!(&error, LoadError::Tokenizer { file, .. } if file.ends_with("tokenizer.json")),
            "{error}"
        );
    }
}

#[test]
fn devices_that_cannot_be_used_are_refused_before_anything_is_loaded() {
    let options = LoadOptions { device: DeviceChoice::Cuda(0), ..LoadOptions::default() };
    let error = load(&ModelSource::Folder("/no/such/folder".into()), &options, &()).unwrap_err();
    assert!(matches!(error, LoadError::Device { .. }), "{error}");
}

/// A GGUF file of the small model with the demo model's tokenizer, `change` on top.
fn write_gguf(
    path: &Path,
    dtype: GgmlDType,
    change: impl FnOnce(&mut gguf::Metadata, &mut Vec<(String, QTensor)>),
) {
    let demo = read_json(&demo_folder().join("config.json"));
    let config = llama(json!({"vocab_size": demo["vocab_size"]}));
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let mut tensors = gguf::tensors(&checked, &random_weights(&config, 22), dtype);
    let mut metadata = gguf::shape(&checked);
    metadata.extend(gguf::byte_level(&read_json(&demo_folder().join("tokenizer.json")), "llama-bpe", 0, 1));
    change(&mut metadata, &mut tensors);
    gguf::write(path, &metadata, &tensors);
}

fn load_gguf(path: &Path) -> Result<(), LoadError> {
    load(&ModelSource::Gguf(path.to_owned()), &LoadOptions::default(), &()).map(|_| ())
}

fn set(metadata: &mut gguf::Metadata, key: &str, value: Metadatum) {
    metadata.retain(|(name, _)| name != key);
    metadata.push((key.to_owned(), value));
}

#[test]
fn gguf_faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let text = |text: &str| Metadatum::String(text.to_owned());
    type Change = (&'static str, Metadatum, &'static str);
    let changes: [Change; 9] = [
        (
            "general.architecture",
            text("gemma2"),
            "unsupported architecture `gemma2`: there are llama, qwen2, qwen3",
        ),
        ("llama.expert_count", Metadatum::U32(8), "mixture of experts"),
        ("llama.rope.scaling.type", text("yarn"), "unsupported rope scaling `yarn`"),
        ("llama.attention.head_count", Metadatum::U32(0), "num_attention_heads"),
        ("llama.block_count", text("three"), "`llama.block_count` is not one number"),
        ("llama.rope.dimension_count", Metadatum::U32(8), "llama.rope.dimension_count"),
        ("tokenizer.ggml.pre", text("falcon"), "unsupported tokenizer: tokenizer.ggml.pre = `falcon`"),
        ("tokenizer.ggml.model", text("t5"), "unsupported tokenizer: tokenizer.ggml.model = `t5`"),
        ("tokenizer.ggml.bos_token_id", Metadatum::U32(9999), "9999 is outside the vocabulary"),
    ];
    for (key, value, expected) in changes {
        write_gguf(&path, GgmlDType::F32, |metadata, _| set(metadata, key, value));
        let message = load_gguf(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    write_gguf(&path, GgmlDType::F32, |_, tensors| tensors.retain(|(name, _)| name != "blk.2.ffn_up.weight"));
    let error = load_gguf(&path).unwrap_err();
    assert!(matches!(&error, LoadError::MissingTensor { name } if name == "blk.2.ffn_up.weight"), "{error}");
    write_gguf(&path, GgmlDType::Q8_1, |_, _| {});
    let error = load_gguf(&path).unwrap_err();
    assert!(matches!(&error, LoadError::TensorType { dtype, .. } if dtype == "Q8_1"), "{error}");
    write_gguf(&path, GgmlDType::Q5_0, |_, _| {});
    load_gguf(&path).unwrap();
}

#[test]
fn a_type_that_ggml_has_and_candle_has_not_is_refused_as_a_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, GgmlDType::F32, |_, _| {});
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    // Behind the name: the number of dimensions (4 bytes), two of them (8 each), the type.
    bytes[at + name.len() + 20] = 23;
    std::fs::write(&path, bytes).unwrap();
    let error = load_gguf(&path).unwrap_err();
    assert!(matches!(&error, LoadError::TensorType { dtype, .. } if dtype.contains("23")), "{error}");
}

#[test]
fn no_cut_or_flipped_byte_of_a_gguf_header_makes_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, GgmlDType::Q8_0, |metadata, _| {
        // Without the tokenizer, so that every byte is one that the header is read by.
        metadata.retain(|(key, _)| !key.starts_with("tokenizer"));
        set(metadata, "general.alignment", Metadatum::U32(32));
    });
    let bytes = std::fs::read(&path).unwrap();
    let spoilt = folder.path().join("spoilt.gguf");
    let try_it = |bytes: &[u8]| {
        std::fs::write(&spoilt, bytes).unwrap();
        let file = GgufFile::open(&spoilt)?;
        file.text_files().err();
        let config = file.config()?;
        let weights = sparkv_models::GgufWeights::new(&file, &config);
        sparkv_models::Decoder::load(&config, &weights, WeightFormat::Auto, &Device::Cpu, &()).map(|_| ())
    };
    try_it(&bytes).unwrap();
    // The last tensor may be followed by up to 31 bytes of padding.
    for length in [0, 3, 4, 8, 24, 100, 700, bytes.len() / 2, bytes.len() - 32] {
        let error = try_it(&bytes[..length]).unwrap_err();
        assert!(matches!(error, LoadError::Corrupt { .. } | LoadError::Io { .. }), "{length}: {error}");
    }
    let header = 3000.min(bytes.len());
    for at in (0..header).step_by(7) {
        for value in [0, 0xFF] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            try_it(&bytes).err();
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z3_]{0,8}".prop_map(Value::from),
        prop::collection::vec(0u64..9, 0..3).prop_map(Value::from),
        prop_oneof![Just("linear"), Just("llama3"), Just("yarn")].prop_map(|kind| {
            json!({"rope_type": kind, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0})
        }),
    ]
}

proptest! {
    /// Whatever stands in a configuration, it is refused or describes a model that can be built.
    #[test]
    fn no_configuration_panics(
        changes in prop::collection::vec((0usize..22, any_value()), 1..4),
        cut in prop::option::of(0usize..900),
    ) {
        const FIELDS: [&str; 22] = [
            "architectures", "model_type", "hidden_act", "vocab_size", "hidden_size", "intermediate_size",
            "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
            "rms_norm_eps", "rope_theta", "tie_word_embeddings", "head_dim", "rope_scaling", "rope_parameters",
            "sliding_window", "attention_bias", "mlp_bias", "eos_token_id", "layer_types", "quantization_config",
        ];
        let mut config = llama(json!({}));
        for (field, value) in changes {
            config[FIELDS[field]] = value;
        }
        let mut text = config.to_string();
        text.truncate(cut.unwrap_or(text.len()).min(text.len()));
        if let Ok(config) = DecoderConfig::from_json(&text) {
            prop_assert!(config.query_heads % config.kv_heads == 0 && config.head_dim % 8 == 0);
            prop_assert!(config.rope.theta.is_finite());
            let _ = (config.attention(), config.kv_shape());
        }
    }
}
