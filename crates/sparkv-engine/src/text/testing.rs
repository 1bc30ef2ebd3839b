//! Tokenizers, formats and schemas for tests.
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sparkv_models::{LanguageModel, fake};
use tokenizers::Tokenizer;

use super::{grammar::Grammars, tools::ToolFormat, vocabulary::Vocabulary};
use crate::{
    core::Grammar,
    request::{OutputFormat, RequestError},
};

/// A tokenizer as sentencepiece makes them: a few pieces, every other character in bytes.
pub(super) fn sentencepiece() -> Tokenizer {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let words =
        ["", "\u{2581}", "a", "b", "c", "\u{e9}", "\u{2581}a", "bc", "\u{2581}\u{2581}", "\u{2581}abc"];
    pieces.extend(words.map(String::from));
    let vocab: serde_json::Map<String, Value> = pieces.into_iter().zip((0..).map(Value::from)).collect();
    let merges = json!([["\u{2581}", "a"], ["b", "c"], ["\u{2581}", "\u{2581}"], ["\u{2581}a", "bc"]]);
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}")]},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [replace("\u{2581}", " "), {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges},
    });
    json.to_string().parse().unwrap()
}

/// A byte-level tokenizer whose special tokens take the white space beside them, as those of Phi do.
pub(super) fn phi() -> Tokenizer {
    let mut tokenizer = sparkv_models::fake::tokenizer().unwrap();
    let taking = tokenizers::AddedToken::from("<|end|>", true).rstrip(true);
    tokenizer
        .add_special_tokens([taking, tokenizers::AddedToken::from("<|user|>", true).lstrip(true)])
        .unwrap();
    tokenizer
}

/// A compiled format, over the fake tokenizer's bytes.
pub(super) struct Formats(Arc<dyn Grammar>);

impl Formats {
    /// Compiles a format; calls are JSON.
    pub(super) fn compile(format: &OutputFormat) -> Result<Self, RequestError> {
        let vocabulary = Vocabulary::new(&fake::tokenizer().unwrap());
        let (model, _) = fake::FakeModel::new(fake::FakeConfig::default());
        Grammars::new(&vocabulary, model.info())?.compile(format, &ToolFormat::Json).map(Self)
    }

    /// Whether a whole answer may be `text`.
    pub(super) fn accept(&self, text: &str) -> bool {
        let mut state = self.0.start();
        let mut allows = |id: u32, goes_on: bool| {
            let mut logits = vec![0.0; fake::FakeConfig::default().vocab_size];
            state.restrict(&mut logits).is_ok()
                && logits[id as usize] != f32::NEG_INFINITY
                && (!goes_on || state.accept(id).is_ok())
        };
        text.bytes().all(|byte| allows(fake::BYTE_OFFSET + u32::from(byte), true)) && allows(fake::EOS, false)
    }
}

/// JSON that looks like a schema, up to some depth.
pub(super) fn json_within(depth: u32) -> impl Strategy<Value = Value> {
    const WORDS: [&str; 22] = [
        "type",
        "object",
        "array",
        "integer",
        "number",
        "properties",
        "items",
        "required",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
        "#",
        "#/$defs/a",
        "$defs",
        "a",
        "minimum",
        "exclusiveMaximum",
        "multipleOf",
        "pattern",
        "const",
        "enum",
    ];
    let word = || prop::sample::select(&WORDS[..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000i64..1000).prop_map(|thousandths| json!(thousandths as f64 / 1000.0)),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Value>()),
        ]
    })
}
