//! A tokenizer read from GGUF gives what the `tokenizer.json` it was made from gives.
use crate::common::{demo_folder, gguf, read_json, shared_model};
use sparkv_models::{GgufFile, TextFiles};
use tokenizers::Tokenizer;

const TEXTS: [&str; 16] = [
    "",
    " ",
    "Hello, world!",
    "Once upon a time, there was a little girl named Lily.",
    "  two spaces, then   three  ",
    "line\nbreak\r\n\n\tand tab",
    "don't WE'LL I'm they've",
    "1 12 123 1234 12345678",
    "The special magic number for apple-pie is: 40213.",
    "naïve café — “quotes” … ümlaut",
    "日本語のテキスト и русский",
    "emoji 🙂👩‍👩‍👧 done",
    "<s>not a token</s> <|end|> inside",
    "a\u{0}b\u{7f}\u{feff}",
    "function(x) { return x*x + 1; }  // comment",
    "▁already▁marked",
];

fn from_gguf(metadata: &gguf::Metadata) -> TextFiles {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    gguf::write(&path, metadata, &[]);
    GgufFile::open(&path).unwrap().text_files().unwrap()
}

fn assert_same(text_files: &TextFiles, expected: &Tokenizer) {
    let found = &text_files.tokenizer;
    assert_eq!(found.get_vocab_size(true), expected.get_vocab_size(true));
    for text in TEXTS {
        for add_special_tokens in [true, false] {
            let ids = |tokenizer: &Tokenizer| {
                tokenizer.encode(text, add_special_tokens).unwrap().get_ids().to_vec()
            };
            let (found_ids, expected_ids) = (ids(found), ids(expected));
            assert_eq!(found_ids, expected_ids, "{text:?}");
            for skip_special_tokens in [true, false] {
                let decode =
                    |tokenizer: &Tokenizer| tokenizer.decode(&found_ids, skip_special_tokens).unwrap();
                assert_eq!(decode(found), decode(expected), "{text:?}");
            }
        }
    }
}

#[test]
fn byte_level_bpe() {
    let path = demo_folder().join("tokenizer.json");
    let mut metadata = gguf::byte_level(&read_json(&path), "llama-bpe", 0, 1);
    let template = candle_core::quantized::gguf_file::Value::String("{{ messages }}".to_owned());
    metadata.push(("tokenizer.chat_template".to_owned(), template));
    let text_files = from_gguf(&metadata);
    assert_same(&text_files, &Tokenizer::from_file(path).unwrap());
    assert_eq!(text_files.bos_token.as_deref(), Some("<|bos|>"));
    assert_eq!(text_files.eos_token.as_deref(), Some("<|end|>"));
    assert_eq!(text_files.chat_template.as_deref(), Some("{{ messages }}"));
    let plain = "No special token, all characters: naïve 日本 🙂\n";
    let ids = text_files.tokenizer.encode(plain, true).unwrap();
    assert_eq!(text_files.tokenizer.decode(ids.get_ids(), true).unwrap(), plain);
}

#[test]
fn sentencepiece_bpe() {
    let Some(folder) = shared_model("stories260K") else { return };
    let path = folder.join("tokenizer.json");
    let text_files = from_gguf(&gguf::sentencepiece(&read_json(&path)));
    assert_same(&text_files, &Tokenizer::from_file(path).unwrap());
    let plain = "Bytes for what has no piece: 日本 🙂\n";
    let ids = text_files.tokenizer.encode(plain, true).unwrap();
    assert_eq!(text_files.tokenizer.decode(ids.get_ids(), true).unwrap(), plain);
}

#[test]
fn pre_tokenizers_cut_as_llama_cpp_does() {
    let vocabulary = read_json(&demo_folder().join("tokenizer.json"));
    let cut = |pre: &str| {
        let text_files = from_gguf(&gguf::byte_level(&vocabulary, pre, 0, 1));
        let encoding = text_files.tokenizer.encode("They'RE 12345 a.b", false).unwrap();
        let words = encoding.get_word_ids().iter().flatten().max().unwrap() + 1;
        (words, text_files.tokenizer.decode(encoding.get_ids(), true).unwrap())
    };
    let cases = [
        ("llama-bpe", 7), // They 'RE _ 123 45 _a .b
        ("gpt-2", 7),     // They ' RE _12345 _a . b
        ("smollm", 12),   // They ' RE _ 1 2 3 4 5 _a . b
        ("tekken", 10),   // They 'RE _ 1 2 3 4 5 _a .b
        ("default", 9),   // They ' RE _ 123 45 _a . b
    ];
    for (pre, words) in cases {
        assert_eq!(cut(pre), (words, "They'RE 12345 a.b".to_owned()), "{pre}");
    }
}
