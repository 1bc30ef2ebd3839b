//! What a request's settings cost and change, as `sparkv run --json` reports it.

use serde_json::{Value, json};
use sparkv::{KvChoice, KvShape, Presets};
use sparkv_models::DecoderConfig;

use crate::support::*;

/// Facts, some 25 characters each, and the beginning of one more.
fn facts(count: usize) -> String {
    let names = ["Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta"];
    let fact = |i: usize| format!("The code of {} is {}. ", names[i % names.len()], 100 + 37 * i % 900);
    (0..count).map(fact).collect::<String>() + "The code of"
}

fn run(prompt: &str, kv: &Value, max_tokens: &str) -> Value {
    let kv = kv.to_string();
    let flags = ["run", "--offline", "--json", "--raw", "--temperature", "0", "--max-tokens", max_tokens];
    serde_json::from_str(&succeed(sparkv().args(flags).args(["--kv", &kv, prompt]))).unwrap()
}

fn demo_config() -> String {
    std::fs::read_to_string(repository("models/demo/config.json")).unwrap()
}

fn demo_shape() -> KvShape {
    DecoderConfig::from_json(&demo_config()).unwrap().kv_shape()
}

/// Bytes of one token in f16, from the numbers in the file.
fn dense_token_bytes() -> u64 {
    let config: Value = serde_json::from_str(&demo_config()).unwrap();
    let number = |field: &str| config[field].as_u64().unwrap();
    let values = number("num_hidden_layers") * number("num_key_value_heads") * number("head_dim");
    // Keys and values, two bytes each.
    values * 2 * 2
}

fn count(usage: &Value, field: &str) -> usize {
    usage[field].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn settings_that_drop_nothing_change_no_token() {
    let prompt = facts(30);
    let exact = run(&prompt, &json!({ "preset": "exact" }), "60");
    assert!(count(&exact["usage"], "prompt_tokens") > 200, "{exact}");
    assert!(count(&exact["usage"], "completion_tokens") > 40, "{exact}");
    for kv in [
        json!({}),
        json!({ "pruning": { "key_ratio": 0, "value_ratio": 0 } }),
        json!({ "eviction": { "policy": "snapkv", "keep_ratio": 1.0 } }),
        json!({ "budget": "100%" }),
    ] {
        assert_eq!(run(&prompt, &kv, "60")["token_ids"], exact["token_ids"], "{kv}");
    }
    // And those that drop nearly everything do, so the comparison can fail.
    let few = json!({ "eviction": { "policy": "streaming", "max_tokens": 68 } });
    assert_ne!(run(&prompt, &few, "60")["token_ids"], exact["token_ids"]);
}

#[test]
fn the_bytes_reported_are_those_the_settings_promise() {
    let prompt = facts(30);
    for kv in [
        json!({ "precision": "f16" }),
        json!({ "pruning": { "key_ratio": 0.5, "value_ratio": 0.25 } }),
        json!({ "precision": "int8", "pruning": { "key_ratio": 0.75, "value_ratio": 0.5 } }),
        json!({ "pruning": { "key_ratio": 0.8, "value_ratio": 0.8, "center_keys": true } }),
        json!({ "eviction": { "policy": "snapkv", "max_tokens": 128 } }),
        json!({ "eviction": { "policy": "streaming", "keep_ratio": 0.5 }, "pruning": { "key_ratio": 0.5 } }),
    ] {
        let usage = run(&prompt, &kv, "20")["usage"].clone();
        let (prompt_tokens, completion) =
            (count(&usage, "prompt_tokens"), count(&usage, "completion_tokens"));
        let options = serde_json::from_value(kv.clone()).unwrap();
        let choice = Presets::built_in().unwrap().resolve(&options).unwrap();
        let KvChoice::Fixed(settings) = choice else { panic!("{kv} is no budget") };
        // The last token is sampled, but not run.
        let promised = settings.cache_bytes(&demo_shape(), prompt_tokens, completion - 1).unwrap();
        assert_eq!(usage["kv_cache"]["bytes"], promised, "{kv}");
        let tokens = (prompt_tokens + completion - 1).next_multiple_of(16) as u64;
        assert_eq!(usage["kv_cache"]["dense_bytes"], tokens * dense_token_bytes(), "{kv}");
    }
}

#[test]
fn a_long_prompt_costs_about_what_the_settings_say() {
    let prompt = facts(150);
    let cases = [
        (json!({}), 1.0..1.04),
        // Of 128 bytes 32 for half of the channels, 16 for two bits for each of all channels, 3 for scale and
        // magnitude: 40 %, and some dense rows.
        (json!({ "pruning": { "key_ratio": 0.5, "value_ratio": 0.5 } }), 0.398..0.43),
        (json!({ "precision": "int8", "pruning": { "key_ratio": 0.75, "value_ratio": 0.5 } }), 0.1875..0.36),
        (json!({ "eviction": { "policy": "snapkv", "keep_ratio": 0.25 } }), 0.25..0.28),
        (json!({ "budget": "50%" }), 0.25..0.5),
    ];
    for (kv, expected) in cases {
        let usage = run(&prompt, &kv, "2")["usage"].clone();
        assert!((1000..2500).contains(&count(&usage, "prompt_tokens")), "{usage}");
        let bytes = |field: &str| usage["kv_cache"][field].as_f64().unwrap();
        let share = bytes("bytes") / bytes("dense_bytes");
        assert!(expected.contains(&share), "{kv}: {share}");
    }
}
