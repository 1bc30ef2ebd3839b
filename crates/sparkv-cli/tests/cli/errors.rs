//! Messages: each reason is told, and told once.

use std::path::Path;
use std::process::Stdio;

use crate::support::*;

/// A copy of the demo model with another `config.json`.
fn with_config(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository("models/demo")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

fn demo_config() -> String {
    std::fs::read_to_string(repository("models/demo/config.json")).unwrap()
}

fn refused(model: &Path) -> String {
    fail(sparkv().env("RUST_BACKTRACE", "1").args(["run", "Hello", "--model"]).arg(model))
}

#[test]
fn reasons_are_told_once() {
    let gelu = with_config(&demo_config().replace("\"silu\"", "\"gelu\""));
    let heads = "\"num_attention_heads\": ";
    let no_heads = with_config(&demo_config().replace(&format!("{heads}4"), &format!("{heads}0")));
    let broken = with_config("{");
    let cases = [
        (refused(gelu.path()), "unsupported hidden_act `gelu`"),
        (refused(no_heads.path()), "num_attention_heads: must be between"),
        (refused(broken.path()), "EOF while parsing"),
        (refused(Path::new("/no/such/file.gguf")), "No such file"),
        // An address for documentation, which no machine has.
        (fail(sparkv().args(["serve", "--host", "192.0.2.1", "--port", "0"])), "cannot listen on 192.0.2.1"),
    ];
    for (message, reason) in cases {
        assert_eq!(message.matches(reason).count(), 1, "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        let parts: Vec<&str> = message.trim_end().split(": ").collect();
        let repeated = parts.iter().enumerate().find(|(i, part)| parts[..*i].contains(part));
        assert_eq!(repeated, None, "{message}");
    }
}

#[test]
fn junk_instead_of_a_gguf_file_is_told_without_a_backtrace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("junk.gguf");
    std::fs::write(&path, b"junk, and nothing else, for more than a header's length").unwrap();
    let message = refused(&path);
    assert!(message.contains("junk.gguf is corrupt"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn another_architecture_is_named() {
    let gpt2 = with_config(r#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "vocab_size": 50257}"#);
    let message = refused(gpt2.path());
    assert!(message.contains("unsupported architecture `GPT2LMHeadModel`"), "{message}");
}

#[test]
fn a_closed_output_ends_a_run_quietly() {
    let mut command = sparkv();
    command.args(["run", "--max-tokens", "4", "Hello"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}
