//! The files of a folder that turn conversations into text.
use std::path::Path;

use crate::common::{demo_folder, llama, random_weights, write_folder};
use serde_json::{Value, json};
use sparkv_models::{LoadError, LoadOptions, ModelSource, TextFiles, load};
use tempfile::TempDir;

/// A small model with these files beside `tokenizer.json`.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = llama(json!({"num_hidden_layers": 1}));
    write_folder(folder.path(), &config, &random_weights(&config, 4));
    std::fs::copy(demo_folder().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn read(folder: &Path) -> Result<TextFiles, LoadError> {
    load(&ModelSource::Folder(folder.to_owned()), &LoadOptions::default(), &()).map(|model| model.text)
}

/// The template for all conversations, and that for those with tools.
fn templates(files: &[(&str, &str)]) -> (Option<String>, Option<String>) {
    let text = read(folder(files).path()).unwrap();
    (text.chat_template, text.tool_use_template)
}

fn pair(default: Option<&str>, tool_use: Option<&str>) -> (Option<String>, Option<String>) {
    (default.map(str::to_owned), tool_use.map(str::to_owned))
}

#[test]
fn a_template_is_found_in_any_of_its_files() {
    let in_config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    let none = ("tokenizer_config.json", r#"{"chat_template": null}"#);
    let jinja = ("chat_template.jinja", "jinja");
    let in_json = ("chat_template.json", r#"{"chat_template": "json"}"#);
    let tools = ("additional_chat_templates/tool_use.jinja", "tools");
    let cases = [
        (vec![], None, None),
        (vec![none], None, None),
        (vec![in_config], Some("config"), None),
        (vec![jinja], Some("jinja"), None),
        (vec![in_json], Some("json"), None),
        (vec![none, jinja], Some("jinja"), None),
        (vec![none, in_json], Some("json"), None),
        (vec![in_config, jinja], Some("jinja"), None),
        (vec![in_config, in_json], Some("config"), None),
        (vec![jinja, in_json], Some("jinja"), None),
        (vec![jinja, tools], Some("jinja"), Some("tools")),
        (vec![in_config, tools], Some("config"), Some("tools")),
        (vec![in_json, tools], Some("json"), Some("tools")),
    ];
    for (files, default, tool_use) in cases {
        assert_eq!(templates(&files), pair(default, tool_use), "{files:?}");
    }
}

#[test]
fn of_named_templates_the_default_is_taken_else_the_only_one() {
    let cases: [(&[&str], Option<&str>, Option<&str>); 7] = [
        (&[], None, None),
        (&["default"], Some("default"), None),
        (&["rag", "default", "tool_use"], Some("default"), Some("tool_use")),
        (&["default", "rag"], Some("default"), None),
        (&["chatml"], Some("chatml"), None),
        (&["tool_use"], Some("tool_use"), Some("tool_use")),
        (&["tool_use", "chatml"], Some("chatml"), Some("tool_use")),
    ];
    for (names, default, tool_use) in cases {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "template": name})).collect();
        let by_name: Value = names.iter().map(|name| ((*name).to_owned(), json!(name))).collect();
        for template in [json!(list), by_name] {
            let json = json!({"chat_template": template}).to_string();
            for file in ["tokenizer_config.json", "chat_template.json"] {
                assert_eq!(templates(&[(file, &json)]), pair(default, tool_use), "{file}: {json}");
            }
        }
    }
}

#[test]
fn templates_that_cannot_be_told_apart_or_read_are_refused_by_name() {
    let cases = [
        (
            r#"{"chat_template": [{"name": "a", "template": ""}, {"name": "b", "template": ""}]}"#,
            "default` among a, b",
        ),
        (r#"{"chat_template": 5}"#, "chat_template: must be a template"),
        (r#"{"chat_template": [{"name": "a"}]}"#, "chat_template: must be a template"),
        (r#"{"chat_template": "}"#, "not JSON"),
    ];
    for file in ["tokenizer_config.json", "chat_template.json"] {
        for (json, expected) in cases {
            let message = read(folder(&[(file, json)]).path()).unwrap_err().to_string();
            assert!(message.contains(file) && message.contains(expected), "{message}");
        }
    }
}

#[test]
fn marks_before_a_text_and_numbers_that_are_none_do_no_harm() {
    let config =
        "\u{feff}{\"chat_template\": \"NaN\", \"model_max_length\": Infinity, \"eos_token\": \"<|end|>\"}";
    let model = folder(&[("tokenizer_config.json", config)]);
    for file in ["tokenizer.json", "config.json"] {
        let path = model.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("\u{feff}{text}")).unwrap();
    }
    let text = read(model.path()).unwrap();
    assert_eq!(text.chat_template.as_deref(), Some("NaN"));
    assert_eq!(text.eos_token.as_deref(), Some("<|end|>"));
    assert!(text.not_cached.is_empty());
}
