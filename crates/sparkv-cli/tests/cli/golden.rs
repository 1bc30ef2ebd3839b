//! A real Llama over HTTP says token for token what transformers says in f32.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::serve::Served;

/// The folder of test models beside the repository, or in $SPARKV_SHARED; `None`, with a word about it, if it
/// is not there, which is an error where CI=true.
fn shared_model(name: &str) -> Option<PathBuf> {
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

#[tokio::test]
async fn stories_are_told_as_transformers_tells_them() {
    let Some(folder) = shared_model("stories260K") else { return };
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let model = folder.to_str().unwrap();
    let server = Served::start(&["--model", model, "--weights", "f32", "--kv", r#"{"precision": "f32"}"#]);
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let ids = case["completion_ids"].as_array().unwrap();
        let body = json!({
            "prompt": case["prompt"], "max_tokens": ids.len(), "temperature": 0, "ignore_eos": true,
        });
        let answer = server.answer("/v1/completions", &body).await;
        assert_eq!(answer.pointer("/choices/0/text").unwrap(), &case["completion_text"]);
        assert_eq!(answer.pointer("/choices/0/finish_reason").unwrap(), &case["finish_reason"]);
        assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), ids.len());
        assert_eq!(
            answer.pointer("/usage/prompt_tokens").unwrap(),
            case["prompt_ids"].as_array().unwrap().len()
        );
    }
}
