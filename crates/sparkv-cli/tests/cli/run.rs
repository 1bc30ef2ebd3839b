//! `sparkv run` on the embedded model, without network.

use serde_json::Value;

use crate::support::*;

const PROMPT: &str = "The code of Anna is 42. What is the code of Anna?";

fn json(arguments: &[&str]) -> Value {
    let output = succeed(sparkv().args(["run", "--offline", "--json"]).args(arguments).arg(PROMPT));
    serde_json::from_str(&output).unwrap()
}

#[test]
fn json_tells_all_and_the_text_is_what_is_printed() {
    let answer = json(&["--max-tokens", "12"]);
    let mut fields: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["finish_reason", "text", "timings", "token_ids", "usage"]);
    let text = answer["text"].as_str().unwrap();
    assert!(!text.is_empty());
    let printed = succeed(sparkv().args(["run", "--max-tokens", "12", PROMPT]));
    assert_eq!(printed, format!("{text}\n"));

    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], answer["token_ids"].as_array().unwrap().len());
    let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(usage["kv_cache"]["preset"], "exact");
    assert!(usage["kv_cache"]["bytes"].as_u64().unwrap() > 0);
    assert!(answer["timings"]["decode_seconds"].as_f64().unwrap() >= 0.0);
}

#[test]
fn options_have_their_effect() {
    let cut = json(&["--max-tokens", "1", "--kv", "balanced"]);
    assert_eq!(cut["usage"]["completion_tokens"], 1);
    assert_eq!(cut["finish_reason"], "length");
    assert_eq!(cut["usage"]["kv_cache"]["preset"], "balanced");

    // Without the template, the prompt is shorter.
    let raw = json(&["--max-tokens", "1", "--raw"]);
    assert!(raw["usage"]["prompt_tokens"].as_u64() < cut["usage"]["prompt_tokens"].as_u64());

    let draw =
        |seed: &str| json(&["--max-tokens", "8", "--temperature", "5", "--seed", seed])["token_ids"].clone();
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let cases: [(&[&str], &str); 6] = [
        (&["--model", "/no/such/model"], "/no/such/model"),
        (&["--model", "no-org/no-model", "--offline"], "no-org/no-model"),
        (&["--device", "cuda"], "cuda"),
        (&["--device", "metal"], "metal"),
        (&["--temperature", "-1"], "temperature"),
        (&["--max-tokens", "1000000"], "1000000"),
    ];
    let home = tempfile::tempdir().unwrap();
    for (arguments, expected) in cases {
        let message = fail(sparkv().env("HF_HOME", home.path()).arg("run").args(arguments).arg(PROMPT));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    let message = fail(sparkv().args(["run", "--kv", r#"{"pruning": {"key_ratio": 1.0}}"#, PROMPT]));
    assert!(message.contains("key_ratio"), "{message}");
    let message = fail(sparkv().args(["pull", "not-a-name"]));
    assert!(message.contains("not-a-name"), "{message}");
    let file = home.path().join("sparkv.toml");
    std::fs::write(&file, "[model]\noffline = true\n").unwrap();
    let pull = || {
        let mut command = sparkv();
        // Where no hub is, so that nothing is asked for even if this should fail.
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", "http://127.0.0.1:1").args(["pull", "a/b"]);
        command
    };
    for command in [
        pull().env("HF_HUB_OFFLINE", "1"),
        pull().env("SPARKV_OFFLINE", "1"),
        pull().env("SPARKV_CONFIG", &file),
        pull().arg("--offline"),
    ] {
        let message = fail(command);
        assert!(message.contains("offline") && message.contains("a/b"), "{command:?}: {message}");
    }
}

#[test]
fn broken_models_are_refused_by_name() {
    let refused = |file: &str, content: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(repository("models/demo")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        std::fs::write(folder.path().join(file), content).unwrap();
        fail(sparkv().args(["run", "--model"]).arg(folder.path()).arg(PROMPT))
    };
    let weights = std::fs::read(repository("models/demo/model.safetensors")).unwrap();
    let message = refused("model.safetensors", &weights[..weights.len() / 2]);
    assert!(message.contains("model.safetensors"), "{message}");
    let config = std::fs::read_to_string(repository("models/demo/config.json")).unwrap();
    let config = config.replace("LlamaForCausalLM", "GPT2LMHeadModel").replace("\"llama\"", "\"gpt2\"");
    let message = refused("config.json", config.as_bytes());
    assert!(message.contains("GPT2LMHeadModel") || message.contains("gpt2"), "{message}");
    let message = refused("config.json", b"{");
    assert!(message.contains("config.json"), "{message}");
    let message = refused("tokenizer.json", b"[]");
    assert!(message.contains("tokenizer.json"), "{message}");
}

/// A template of the operator's replaces the model's; one that is none is told at once.
#[test]
fn the_chat_template_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template.jinja");
    let tokens = |template: &str| {
        std::fs::write(&path, template).unwrap();
        let answer = json(&["--max-tokens", "1", "--chat-template", path.to_str().unwrap()]);
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let once = tokens("{{ messages[0].content }}");
    let twice = tokens("{{ messages[0].content }} {{ messages[0].content }}");
    assert!(twice > once + 10, "{twice} and {once}");
    std::fs::write(&path, "{% for %}").unwrap();
    let output = sparkv().args(["run", "--chat-template"]).arg(&path).arg(PROMPT).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("template.jinja cannot be compiled"), "{message}");
}
