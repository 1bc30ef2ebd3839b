//! GGUF from the hub, revisions, and downloads that fail.
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::common::{demo_folder, gguf, greedy, llama, random_weights, read_json};
use crate::fake_hub::{Failure, FakeHub, REPO};
use candle_core::quantized::{GgmlDType, gguf_file::Value};
use serde_json::json;
use sparkv_models::progress::{Progress, Task};
use sparkv_models::{
    DecoderConfig, HubFiles, HubOptions, LanguageModel, LoadError, LoadOptions, ModelSource, hub, load,
};
use tempfile::TempDir;

const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn options(cache: &TempDir, hub: &FakeHub, offline: bool) -> HubOptions {
    let cache = Some(cache.path().to_owned());
    HubOptions { cache, endpoint: hub.endpoint.clone(), token: None, offline }
}

fn fetch(name: &str, options: &HubOptions) -> Result<PathBuf, LoadError> {
    let (HubFiles::Folder(path) | HubFiles::Gguf(path)) =
        hub::fetch(&format!("{REPO}{name}").parse().unwrap(), options, &())?;
    Ok(path)
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// A small model with the demo model's tokenizer and a chat template.
fn tiny() -> Vec<u8> {
    let mut config = llama(json!({"num_hidden_layers": 1}));
    config["vocab_size"] = read_json(&demo_folder().join("config.json"))["vocab_size"].clone();
    let checked = DecoderConfig::from_json(&config.to_string()).unwrap();
    let tensors = gguf::tensors(&checked, &random_weights(&config, 22), GgmlDType::F32);
    let mut metadata = gguf::shape(&checked);
    metadata.extend(gguf::byte_level(&read_json(&demo_folder().join("tokenizer.json")), "llama-bpe", 0, 1));
    metadata.push(("tokenizer.chat_template".to_owned(), Value::String("{{ messages }}".to_owned())));
    let file = tempfile::NamedTempFile::new().unwrap();
    gguf::write(file.path(), &metadata, &tensors);
    std::fs::read(file.path()).unwrap()
}

#[test]
fn a_tag_chooses_a_file_which_loads_with_its_own_texts() {
    let hub = FakeHub::start();
    let files: [(&str, &[u8]); 4] = [
        ("README.md", b"a model"),
        ("tiny-F32.gguf", &tiny()),
        ("tiny-Q4_K_M.gguf", b"GGUF, but nothing else"),
        ("mmproj-tiny-F32.gguf", b"for images"),
    ];
    hub.commit("main", FIRST, &files);
    let cache = tempfile::tempdir().unwrap();
    let source: ModelSource = format!("{REPO}:f32").parse().unwrap();
    let load = |offline| {
        let options = LoadOptions { hub: options(&cache, &hub, offline), ..LoadOptions::default() };
        load(&source, &options, &()).unwrap()
    };
    let model = load(false);
    assert_eq!(model.name, format!("{REPO}:f32"));
    assert_eq!(model.text.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(model.text.not_cached, [""; 0]);
    assert_eq!(greedy(&model.decoder, &[0, 17, 30], 3).len(), 3);
    assert_eq!(model.decoder.info().eos_token_ids, [1]);
    let asked = hub.asked();
    assert!(
        asked.iter().filter(|path| path.contains("resolve")).all(|path| path.ends_with("/tiny-F32.gguf"))
    );
    load(false);
    load(true);
    assert_eq!(hub.asked(), asked, "the second time came from the cache");
}

#[test]
fn all_parts_are_downloaded() {
    let hub = FakeHub::start();
    let part = |number: usize| format!("Q8_0/tiny-Q8_0-0000{number}-of-00003.gguf");
    let names = [part(1), part(2), part(3)];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    hub.commit("main", FIRST, &files);
    hub.commit("broken", SECOND, &files[..2]);
    let cache = tempfile::tempdir().unwrap();
    let first = fetch(":q8_0", &options(&cache, &hub, false)).unwrap();
    assert!(first.ends_with(&names[0]), "{}", first.display());
    for name in &names {
        let path = first.parent().unwrap().join(name_of(Path::new(name)));
        assert_eq!(std::fs::read_to_string(path).unwrap(), *name);
    }
    assert_eq!(fetch(":Q8_0", &options(&cache, &hub, true)).unwrap(), first);
    std::fs::remove_file(first.parent().unwrap().join(name_of(Path::new(&names[2])))).unwrap();
    let error = fetch(":Q8_0", &options(&cache, &hub, true)).unwrap_err();
    assert!(matches!(error, LoadError::NotCached { .. }), "{error}");
    assert_eq!(fetch("", &options(&cache, &hub, false)).unwrap(), first, "what is missing is added");
    let error = fetch(":Q8_0@broken", &options(&cache, &hub, false)).unwrap_err().to_string();
    assert!(error.contains("lacks parts of"), "{error}");
}

#[test]
fn without_a_tag_it_is_the_usual_quantization_or_the_first() {
    let hub = FakeHub::start();
    let usual: [(&str, &[u8]); 3] = [("a-Q2_K.gguf", b"2"), ("a-q4_k_m.gguf", b"4"), ("a-Q8_0.gguf", b"8")];
    hub.commit("main", FIRST, &usual);
    hub.commit("other", SECOND, &[usual[0], usual[2]]);
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(name_of(&fetch("@other", &options(&cache, &hub, false)).unwrap()), "a-Q2_K.gguf");
    // Another one is in the cache: it is taken where the hub cannot be asked, and not where it can.
    fetch(":Q8_0", &options(&cache, &hub, false)).unwrap();
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:9".to_owned(), ..options(&cache, &hub, false) };
    for options in [options(&cache, &hub, true), nowhere] {
        assert_eq!(name_of(&fetch("", &options).unwrap()), "a-Q8_0.gguf");
    }
    assert_eq!(name_of(&fetch("", &options(&cache, &hub, false)).unwrap()), "a-q4_k_m.gguf");
    let asked = hub.asked();
    assert_eq!(name_of(&fetch("", &options(&cache, &hub, false)).unwrap()), "a-q4_k_m.gguf");
    assert_eq!(hub.asked(), asked);
}

#[test]
fn a_tag_that_names_none_or_several_is_told_what_there_is() {
    let hub = FakeHub::start();
    let files: [(&str, &[u8]); 3] = [("a-Q4_0.gguf", b"a"), ("b-Q4_0.gguf", b"b"), ("a-Q8_0.gguf", b"c")];
    hub.commit("main", FIRST, &files);
    hub.commit("none", SECOND, &[("pytorch_model.bin", b"old")]);
    let cache = tempfile::tempdir().unwrap();
    let refused = |name: &str| {
        let error = fetch(name, &options(&cache, &hub, false)).unwrap_err();
        assert!(matches!(error, LoadError::Hub { .. }), "{error}");
        error.to_string()
    };
    let message = refused(":Q5_K_M");
    assert!(message.contains("`Q5_K_M`") && message.contains("Q4_0, Q8_0, Q4_0"), "{message}");
    let message = refused(":q4_0");
    assert!(message.contains("several") && message.contains("a-Q4_0.gguf, b-Q4_0.gguf"), "{message}");
    assert!(refused("@none").contains("no safetensors weights and no GGUF files"));
    assert!(refused(":Q4_0@none").contains("no GGUF files"));
    assert_eq!(name_of(&fetch(":b-Q4_0", &options(&cache, &hub, false)).unwrap()), "b-Q4_0.gguf");
}

#[test]
fn revisions_are_branches_and_commits_each_with_its_own_files() {
    let hub = FakeHub::start();
    hub.commit("main", FIRST, &[("a-Q8_0.gguf", b"first")]);
    hub.commit("refs/pr/5", SECOND, &[("a-Q8_0.gguf", b"second")]);
    let cache = tempfile::tempdir().unwrap();
    let content = |name: &str, offline| {
        fetch(name, &options(&cache, &hub, offline)).map(|path| std::fs::read_to_string(path).unwrap())
    };
    assert_eq!(content("@refs/pr/5", false).unwrap(), "second");
    assert!(content("", true).is_err(), "main is not there yet");
    assert_eq!(content("", false).unwrap(), "first");
    for (name, expected) in [
        ("", "first"),
        ("@main", "first"),
        (":q8_0@refs/pr/5", "second"),
        (&format!("@{FIRST}"), "first"),
        (&format!("@{}", &SECOND[..8]), "second"),
    ] {
        assert_eq!(content(name, true).unwrap(), expected, "{name}");
    }
    assert!(content(&format!("@{}", &SECOND[..3]), true).is_err(), "too short for a commit");
    let message = content("@v9", false).unwrap_err().to_string();
    assert!(message.contains("no revision v9") && message.contains("404"), "{message}");
    // A commit by its name, before any branch is known.
    let cache = tempfile::tempdir().unwrap();
    let path = fetch(&format!("@{SECOND}"), &options(&cache, &hub, false)).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "second");
    assert!(fetch(&format!("@{SECOND}"), &options(&cache, &hub, true)).is_ok());
}

#[test]
fn files_of_two_commits_are_not_mixed_when_a_branch_moves_on() {
    let hub = FakeHub::start();
    let files = |config: &'static [u8]| -> [(&str, &[u8]); 3] {
        [("config.json", config), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")]
    };
    hub.commit("main", FIRST, &files(b"old"));
    let cache = tempfile::tempdir().unwrap();
    // The first download breaks off for good behind config.json, which comes whole; then the branch moves on.
    hub.fail([Failure::Cut(usize::MAX), Failure::Status(404)]);
    assert!(fetch("", &options(&cache, &hub, false)).is_err());
    hub.commit("main", SECOND, &files(b"new"));
    let folder = fetch("", &options(&cache, &hub, false)).unwrap();
    assert_eq!(name_of(&folder), SECOND);
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"new");
}

/// Bytes that were begun, heard of, and ended.
#[derive(Default)]
struct Heard(Mutex<(u64, u64, usize)>);

impl Progress for Heard {
    fn begin(&self, task: &Task<'_>) {
        self.0.lock().unwrap().0 += task.total;
    }

    fn advance(&self, amount: u64) {
        self.0.lock().unwrap().1 += amount;
    }

    fn end(&self) {
        self.0.lock().unwrap().2 += 1;
    }
}

#[test]
fn what_fails_for_a_moment_is_tried_again_and_goes_on_where_it_broke_off() {
    let hub = FakeHub::start();
    let bytes: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    hub.commit("main", FIRST, &[("a-Q8_0.gguf", &bytes)]);
    let cuts = [Failure::Cut(20_000), Failure::Cut(0), Failure::Cut(30_000), Failure::Status(502)];
    hub.fail([Failure::Status(503), Failure::Status(429)].into_iter().chain(cuts));
    let (cache, heard) = (tempfile::tempdir().unwrap(), Heard::default());
    let files = hub::fetch(&REPO.parse().unwrap(), &options(&cache, &hub, false), &heard).unwrap();
    let HubFiles::Gguf(path) = files else { panic!("{files:?}") };
    assert!(std::fs::read(path).unwrap() == bytes);
    let starts = hub.starts("a-Q8_0.gguf");
    assert_eq!(starts, [0, 20_000, 20_000, 50_000]);
    assert_eq!(*heard.0.lock().unwrap(), (100_000, 100_000, 1), "begun, heard of, ended");

    // What does not end is told, and what has arrived is kept.
    hub.commit("dev", SECOND, &[("b-Q8_0.gguf", &bytes[1..])]);
    hub.fail([Failure::Cut(60_000)].into_iter().chain((0..4).map(|_| Failure::Status(503))));
    let error = fetch("@dev", &options(&cache, &hub, false)).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("b-Q8_0.gguf"), "{error}");
    let path = fetch("@dev", &options(&cache, &hub, false)).unwrap();
    assert!(std::fs::read(path).unwrap() == bytes[1..]);
    assert_eq!(hub.starts("b-Q8_0.gguf"), [0, 60_000]);
}

#[test]
fn a_whole_file_that_was_not_taken_over_does_not_stand_in_the_way() {
    let hub = FakeHub::start();
    hub.commit("main", FIRST, &[("a-Q8_0.gguf", b"12345678")]);
    let cache = tempfile::tempdir().unwrap();
    let path = fetch("", &options(&cache, &hub, false)).unwrap();
    // As after a crash between the last byte and the file's name.
    let blob = path.canonicalize().unwrap();
    std::fs::remove_file(&path).unwrap();
    for left in ["12345678", "123456789 and more"] {
        std::fs::write(blob.with_extension("part"), left).unwrap();
        let _ = std::fs::remove_file(&path);
        assert_eq!(fetch("", &options(&cache, &hub, false)).unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"12345678");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let hub = FakeHub::start();
    hub.commit("main", FIRST, &[("a-Q8_0.gguf", b"a")]);
    let cache = tempfile::tempdir().unwrap();
    let token = HubOptions { token: Some("s3cret".to_owned()), ..options(&cache, &hub, false) };
    let none = options(&cache, &hub, false);
    for (status, options, expected) in [
        (401, &none, "set HF_TOKEN to a token of"),
        (401, &token, "refuses the token"),
        (403, &token, "ask for it at"),
        (404, &none, "has no model sparkv-tests/tiny"),
    ] {
        hub.fail([Failure::Status(status)]);
        let message = fetch("", options).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(&status.to_string()), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
    hub.fail((0..4).map(|_| Failure::Status(429)));
    assert!(fetch("", &none).unwrap_err().to_string().contains("wait a while"));
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:9".to_owned(), ..none.clone() };
    let message = fetch("", &nowhere).unwrap_err().to_string();
    for part in
        ["cannot reach http://127.0.0.1:9", "sparkv list", "--model demo", "HTTPS_PROXY", "HF_ENDPOINT"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(fetch("", &none).is_ok());
}

#[test]
fn files_are_chosen_by_patterns() {
    let hub = FakeHub::start();
    let files: [(&str, &[u8]); 4] =
        [("config.json", b"c"), ("sub/more.json", b"m"), ("model.safetensors", b"w"), ("../evil.json", b"e")];
    hub.commit("main", FIRST, &files);
    let cache = tempfile::tempdir().unwrap();
    let get = |patterns: &[&str], offline| {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        hub::fetch_files(&REPO.parse().unwrap(), &patterns, &options(&cache, &hub, offline), &())
    };
    let paths = get(&["*.json"], false).unwrap();
    assert_eq!(paths.iter().map(|path| name_of(path)).collect::<Vec<_>>(), ["config.json", "more.json"]);
    assert!(paths.iter().all(|path| path.exists() && path.starts_with(cache.path())));
    let mut offline = get(&["*.json"], true).unwrap();
    offline.sort();
    assert_eq!(offline, paths);
    assert!(matches!(get(&["*.safetensors"], true), Err(LoadError::NotCached { .. })));
    let message = get(&["*.json", "*.gguf"], false).unwrap_err().to_string();
    assert!(message.contains("`*.gguf`") && message.contains("model.safetensors"), "{message}");
    assert!(get(&["[a"], false).is_err());
}
