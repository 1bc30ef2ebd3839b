//! The text side of the fake model.

/// Begin-of-sequence token of [`tokenizer`].
pub const BOS: u32 = 0;

/// End-of-sequence token of [`tokenizer`].
pub const EOS: u32 = 1;

/// Byte `b` is token `BYTE_OFFSET + b` of [`tokenizer`].
pub const BYTE_OFFSET: u32 = 2;

/// A chat template for [`tokenizer`], which refuses roles it does not know.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message.role not in ['system', 'user', 'assistant'] %}\
    {{ raise_exception('unknown role ' + message.role) }}{% endif %}\
    [{{ message.role }}] {{ message.content }}\n{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";

/// A byte-level tokenizer: `<s>`, `</s>`, then one token per byte. Encoding with special tokens puts `<s>` first.
///
/// # Errors
/// Never; what it is made of is fixed.
pub fn tokenizer() -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut vocab = serde_json::Map::new();
    vocab.insert("<s>".to_owned(), BOS.into());
    vocab.insert("</s>".to_owned(), EOS.into());
    // GPT-2's alphabet: printable bytes stand for themselves, the others for the code points from 256 on.
    let mut others = 256..;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { Some(u32::from(byte)) } else { others.next() };
        if let Some(letter) = code.and_then(char::from_u32) {
            vocab.insert(letter.to_string(), (BYTE_OFFSET + u32::from(byte)).into());
        }
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(BOS, "<s>"), special(EOS, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    json.to_string().parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenizer_is_a_byte_per_token() {
        let tokenizer = tokenizer().unwrap();
        let text = "a b\n\u{e9}\u{1f600}";
        let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        let expected: Vec<u32> =
            std::iter::once(BOS).chain(text.bytes().map(|b| BYTE_OFFSET + u32::from(b))).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}
