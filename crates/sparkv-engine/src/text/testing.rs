//! A tokenizer for tests.
use serde_json::{Value, json};
use tokenizers::Tokenizer;

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
