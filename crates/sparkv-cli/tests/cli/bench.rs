//! `sparkv bench` on the embedded model and on random weights. What it measures is not judged here.

use std::path::PathBuf;

use serde_json::{Value, json};
use sparkv_models::DecoderConfig;

use crate::support::*;

fn bench(arguments: &[&str]) -> Value {
    let output = succeed(
        sparkv().args(["bench", "--offline", "--json", "--runs", "3", "--generate", "2"]).args(arguments),
    );
    serde_json::from_str(&output).unwrap()
}

fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

fn number(row: &Value, pointer: &str) -> f64 {
    row.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {row}"))
}

/// A file in the layout of config.json, in a folder that lives as long as the guard.
fn shape(config: &Value) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.json");
    std::fs::write(&path, config.to_string()).unwrap();
    (folder, path)
}

/// Rows of 256 and of 64, so that quantization in blocks of 256 meets both.
fn tiny() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 64, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 600, "tie_word_embeddings": true,
    })
}

#[test]
fn json_has_the_documented_fields() {
    let given = ["--prompt", "8,16", "--depth", "0,100", "--kv", "exact", "--kv", "balanced"];
    let report = bench(&given);
    assert_eq!(fields(&report), ["decode", "loading", "machine", "model", "peak_rss_bytes", "prefill"]);
    assert_eq!(fields(&report["loading"]), ["peak_bytes", "resident_bytes", "seconds", "weight_bytes"]);
    assert!(number(&report, "/loading/seconds") > 0.0);
    // Its weights are some millions, in Q8_0.
    let weights = number(&report, "/loading/weight_bytes");
    assert!((1e6..1e7).contains(&weights), "{weights}");
    let machine = ["arch", "cores", "cpu", "memory_bytes", "os", "threads"];
    assert_eq!(fields(&report["machine"]), machine);
    assert_eq!(report["model"], json!({ "name": "sparkv-demo", "weights": "auto", "dummy": false }));

    let rows = |part: &str, length: &str| -> Vec<(u64, String)> {
        let rows = report[part].as_array().unwrap().iter();
        rows.map(|row| (row[length].as_u64().unwrap(), row["kv"].as_str().unwrap().to_owned())).collect()
    };
    let both = |[first, second]: [u64; 2]| {
        [first, second].map(|n| [(n, "exact".to_owned()), (n, "balanced".to_owned())]).concat()
    };
    assert_eq!(rows("prefill", "tokens"), both([8, 16]));
    assert_eq!(rows("decode", "depth"), both([0, 100]));
    for row in ["prefill", "decode"].iter().flat_map(|part| report[part].as_array().unwrap()) {
        let speed = number(row, "/tokens_per_second");
        assert!(number(row, "/spread/min") <= speed && speed <= number(row, "/spread/max"), "{row}");
        assert!(number(row, "/spread/min") > 0.0, "{row}");
        let part = |part: &str| number(row, &format!("/milliseconds/{part}"));
        assert!(part("weights") > 0.0 && part("attention") > 0.0 && part("rest") > 0.0, "{row}");
        let sum = part("weights") + part("attention") + part("rest");
        assert!((part("total") - sum).abs() < 1e-6, "{row}");
    }
    for row in report["prefill"].as_array().unwrap() {
        assert!(number(row, "/attention_gflops") > 0.0, "{row}");
    }
    let at_100 = &report["decode"].as_array().unwrap()[2..];
    let (held, dense) = (number(&at_100[0], "/kv_bytes"), number(&at_100[0], "/kv_dense_bytes"));
    assert_eq!(held, dense, "exact holds a dense f16 cache, in groups of 16 tokens");
    assert!(number(&at_100[1], "/kv_bytes") < number(&at_100[1], "/kv_dense_bytes"));
    if cfg!(target_os = "linux") {
        let peak = number(&report, "/peak_rss_bytes");
        for row in at_100 {
            let resident = [number(row, "/resident_bytes_before"), number(row, "/resident_bytes_after")];
            assert!(resident.iter().all(|&bytes| bytes > 0.0 && bytes <= peak), "{row}");
        }
    }
}

#[test]
fn random_weights_take_the_shape_of_a_file_in_every_format() {
    let (_folder, path) = shape(&tiny());
    let path = path.to_str().unwrap();
    for weights in ["auto", "f32", "f16", "bf16", "q8_0", "q4k"] {
        let report = bench(&["--shape", path, "--weights", weights, "--prompt", "8", "--depth", "50"]);
        assert_eq!(report["model"], json!({ "name": "tiny", "weights": weights, "dummy": true }));
        // Two layers, two heads, keys and values of 16 channels, two bytes each; whole groups of 16 tokens.
        assert_eq!(report["decode"][0]["kv_dense_bytes"], 64 * 2 * 2 * 2 * 16 * 2);
        assert_eq!(report["decode"][0]["kv"], "exact");
    }
}

#[test]
fn parts_can_be_left_out_and_defaults_fit_the_model() {
    let (_folder, path) = shape(&tiny());
    let shape = ["--shape", path.to_str().unwrap()];
    let no_prompts = bench(&[&shape[..], &["--prompt", "0"]].concat());
    assert_eq!(no_prompts["prefill"], json!([]));
    let depths: Vec<&Value> =
        no_prompts["decode"].as_array().unwrap().iter().map(|row| &row["depth"]).collect();
    assert_eq!(depths, [0, 300], "half of the context");
    let flags = ["bench", "--generate", "0", "--prompt", "8", "--runs", "1", "--threads", "1"];
    let table = succeed(sparkv().args(flags).args(shape));
    assert!(table.contains("| 8 | exact |") && !table.contains("| depth |"), "{table}");
    assert!(table.starts_with("tiny, random weights auto, 1 of "), "{table}");
}

#[test]
fn a_variable_that_names_a_model_gives_way_to_a_shape() {
    let (_folder, path) = shape(&tiny());
    let flags = ["bench", "--json", "--generate", "0", "--prompt", "8", "--runs", "1", "--shape"];
    let output = succeed(sparkv().env("SPARKV_MODEL", "/no/such/model").args(flags).arg(path));
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["model"]["name"], "tiny");
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let (_folder, path) = shape(&json!({ "architectures": ["GPT2LMHeadModel"] }));
    let path = path.to_str().unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["--shape", "/no/such/shape.json"], "/no/such/shape.json"),
        (&["--shape", path], "GPT2LMHeadModel"),
        (&["--shape", path, "--model", "demo"], "--model"),
        (&["--prompt", "5000"], "context of 4096"),
        (&["--prompt", "8", "--depth", "4090"], "context of 4096"),
        (&["--kv", "no-such-preset"], "no-such-preset"),
        (&["--kv", r#"{"pruning": {"key_ratio": 1.0}}"#], "key_ratio"),
        (&["--kv", "exact", "--kv", r#"{"budget": 1000}"#], "budget"),
        (&["--runs", "0"], "--runs"),
        (&["--depth", "many"], "--depth"),
    ];
    for (arguments, expected) in cases {
        let message = fail(sparkv().arg("bench").args(arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn every_shape_in_the_repository_is_one() {
    let mut shapes: Vec<(String, u64)> = std::fs::read_dir(repository("configs/shapes"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let config = DecoderConfig::from_json(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), config.kv_shape().dense_bytes(1))
        })
        .collect();
    shapes.sort();
    let expected = [
        ("llama-3.1-8b", 128 * 1024),
        ("llama-3.2-1b", 32 * 1024),
        ("mistral-7b", 128 * 1024),
        ("smollm2-135m", 30 * 3 * 64 * 4),
    ];
    assert_eq!(shapes, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
}
