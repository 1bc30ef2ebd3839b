//! Configurations and ends of turns in many forms, against what transformers makes of them
//! (`scripts/models/variations.py`): the same, or refused by name.
use std::collections::BTreeSet;
use std::path::Path;

use crate::common::{random_weights, read_json, write_folder};
use serde_json::{Map, Value, json};
use sparkv_models::config::RopeScaling;
use sparkv_models::{DecoderConfig, LanguageModel, LoadOptions, ModelSource, load};

fn golden() -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/variations.json"))
}

fn cases<'a>(golden: &'a Value, name: &str) -> &'a [Value] {
    golden[name].as_array().unwrap()
}

fn ids(json: &Value) -> BTreeSet<u32> {
    json.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// A `config.json`: the family's base with a change, as text, because Python writes what JSON has no values for.
fn config(base: &Value, case: &Value) -> String {
    let mut fields = base["config"].as_object().unwrap().clone();
    let change = case["change"].as_str().unwrap();
    let inner = change.strip_prefix('{').and_then(|change| change.strip_suffix('}')).unwrap();
    fields.retain(|name, _| !cases(case, "without").contains(&json!(name)));
    let fields = Value::from(fields).to_string();
    let comma = if inner.is_empty() { "" } else { ", " };
    let mark = if case["mark"] == true { "\u{feff}" } else { "" };
    format!("{mark}{}{comma}{inner}}}", fields.strip_suffix('}').unwrap())
}

/// A configuration in the words of the golden file.
fn shape(config: &DecoderConfig) -> Value {
    let (rope_type, factor, original) = match &config.rope.scaling {
        RopeScaling::Linear { factor } => ("linear", Some(*factor), None),
        RopeScaling::Llama3 { factor, original_context, .. } => {
            ("llama3", Some(*factor), Some(*original_context))
        }
        _ => ("default", None, None),
    };
    let [q, k, v] = config.attention_bias;
    assert!(q == k && k == v, "a configuration says one thing of all three");
    json!({
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "layers": config.layers,
        "query_heads": config.query_heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim,
        "context_length": config.context_length, "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta, "rope_type": rope_type, "rope_factor": factor,
        "rope_original": original, "sliding_window": config.sliding_window, "attention_bias": q,
        "attention_output_bias": config.attention_output_bias, "mlp_bias": config.mlp_bias,
        // Without a word, transformers does not tie; the weights have a say here.
        "tied": config.tied_embeddings.unwrap_or(false), "eos": config.eos_token_ids,
    })
}

/// Numbers as f32, in which configurations hold those that are not counts.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap() as f32),
        Value::Array(values) => values.iter().map(rounded).collect(),
        other => other.clone(),
    }
}

#[test]
fn configurations_mean_what_they_mean_to_transformers_or_are_refused_by_name() {
    let golden = golden();
    let (mut read, mut refused) = (0, 0);
    for case in cases(&golden, "configs") {
        let base = &golden["bases"][case["family"].as_str().unwrap()];
        let text = config(base, case);
        match (DecoderConfig::from_json(&text), case.get("refused")) {
            (Ok(found), None) => {
                let mut expected: Map<String, Value> = base["shape"].as_object().unwrap().clone();
                expected.extend(case["transformers"].as_object().unwrap().clone());
                for (name, expected) in &expected {
                    assert_eq!(rounded(&shape(&found)[name]), rounded(expected), "{name} of {case}");
                }
                read += 1;
            }
            (Err(error), Some(field)) => {
                let message = error.to_string();
                assert!(message.contains(field.as_str().unwrap()), "{message}: {case}");
                refused += 1;
            }
            (found, _) => panic!("{found:?} of {case}"),
        }
    }
    assert_eq!((read, refused), (224, 56));
}

#[test]
fn a_model_stops_at_every_end_that_its_files_give() {
    let golden = golden();
    let tokens = cases(&golden, "tokens");
    let folder = tempfile::tempdir().unwrap();
    let (mut differing, small) = (0, &golden["small"]);
    let weights = random_weights(small, 3);
    for case in cases(&golden, "ends") {
        let mut config = small.clone();
        config["eos_token_id"] = case["config"]["eos_token_id"].clone();
        write_folder(folder.path(), &config, &weights);
        let kept = cases(case, "tokens");
        let added: Vec<Value> =
            tokens.iter().filter(|token| kept.contains(&token["content"])).cloned().collect();
        write_tokenizer(folder.path(), tokens, &added);
        for (name, file) in
            [("generation_config.json", "generation_config"), ("tokenizer_config.json", "tokenizer_config")]
        {
            let path = folder.path().join(name);
            std::fs::remove_file(&path).ok();
            if !case[file].is_null() {
                std::fs::write(path, case[file].to_string()).unwrap();
            }
        }
        let source = ModelSource::Folder(folder.path().to_owned());
        let model = load(&source, &LoadOptions::default(), &()).unwrap();
        let found = &model.decoder.info().eos_token_ids;
        let ours: BTreeSet<u32> = found.iter().copied().collect();
        assert_eq!(found.len(), ours.len(), "each once: {case}");
        assert_eq!(ours, ids(&case["ends"]), "{case}");
        let theirs = ids(&case["transformers"]);
        assert!(ours.is_superset(&theirs), "{case}");
        differing += usize::from(ours != theirs);
    }
    assert_eq!((cases(&golden, "ends").len(), differing), (144, 109));
}

/// A `tokenizer.json` in which `added` are known and the other tokens have texts that nobody looks for.
fn write_tokenizer(folder: &Path, tokens: &[Value], added: &[Value]) {
    let mut vocabulary: Map<String, Value> =
        (0..32).map(|id| (format!("word{id}"), json!(id))).skip(tokens.len()).collect();
    let fill = |added: &Value| {
        let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let mut token = added.as_object().unwrap().clone();
        token.extend(flags.as_object().unwrap().clone());
        Value::from(token)
    };
    for token in tokens {
        let name = token["content"].as_str().unwrap();
        let known = added.contains(token);
        vocabulary.insert(if known { name.to_owned() } else { format!("no {name}") }, token["id"].clone());
    }
    let json = json!({
        "version": "1.0", "added_tokens": added.iter().map(fill).collect::<Value>(),
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "word31"},
    });
    std::fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
}
