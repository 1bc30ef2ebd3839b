//! The bytes that tokens stand for.
use std::collections::HashMap;

use tokenizers::{DecoderWrapper, Tokenizer};

/// How a vocabulary spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's: a letter for each byte.
    ByteLevel,
    /// sentencepiece's: text with a letter for spaces; bytes that are no text as `<0xE2>`.
    Pieces {
        /// Stands for a space.
        space: Option<char>,
    },
}

/// What a token stands for.
#[derive(Debug)]
struct Token {
    bytes: Vec<u8>,
    special: bool,
}

/// What each token stands for.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// By id. A map, because a file may name any id, and memory must not follow from that.
    tokens: HashMap<u32, Token>,
    /// Bytes of the longest token as the vocabulary spells it, at least 1.
    longest: usize,
}

impl Vocabulary {
    /// Reads a tokenizer's.
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let vocab = tokenizer.get_vocab(true);
        let added = tokenizer.get_added_vocabulary();
        let spelling = tokenizer.get_decoder().map_or(Spelling::Pieces { space: None }, spelling);
        let letters = byte_letters();
        let longest = vocab.keys().map(String::len).max().unwrap_or(1).max(1);
        let tokens = vocab.into_iter().map(|(token, id)| {
            let special = added.is_special_token(&token);
            // Added tokens are texts, whatever the others are.
            let is_added = added.get_vocab().contains_key(&token);
            let bytes = if is_added { token.into_bytes() } else { spell(&token, spelling, &letters) };
            (id, Token { bytes, special })
        });
        Self { tokens: tokens.collect(), longest }
    }

    /// A token's bytes; those of its name if it is a special one, none if it is unknown.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(&id).map_or(&[], |token| &token.bytes)
    }

    /// Whether a token is no text: a special one, or one that the tokenizer does not have.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.tokens.get(&id).is_none_or(|token| token.special || token.bytes.is_empty())
    }

    /// Bytes of the longest token, at least 1. A vocabulary spells spaces and bytes with longer characters than they
    /// are, so this errs upwards.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}

fn spell(token: &str, spelling: Spelling, letters: &HashMap<char, u8>) -> Vec<u8> {
    match spelling {
        Spelling::ByteLevel => match token.chars().map(|letter| letters.get(&letter).copied()).collect() {
            Some(bytes) => bytes,
            None => token.as_bytes().to_vec(),
        },
        Spelling::Pieces { space } => match hex_byte(token) {
            Some(byte) => vec![byte],
            None => match space {
                Some(space) => token.replace(space, " ").into_bytes(),
                None => token.as_bytes().to_vec(),
            },
        },
    }
}

/// The byte of `<0xE2>`.
fn hex_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

fn spelling(decoder: &DecoderWrapper) -> Spelling {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Spelling::ByteLevel,
        DecoderWrapper::Metaspace(metaspace) => Spelling::Pieces { space: Some(metaspace.get_replacement()) },
        DecoderWrapper::Sequence(decoders) => {
            let all = decoders.get_decoders().iter().map(spelling);
            all.fold(Spelling::Pieces { space: None }, |found, next| match (found, next) {
                (Spelling::Pieces { space: None }, next) => next,
                (found, _) => found,
            })
        }
        DecoderWrapper::Replace(_) => {
            // Its pattern is private; what it writes tells.
            let fields = serde_json::to_value(decoder).unwrap_or_default();
            let from = fields["pattern"]["String"].as_str().filter(|_| fields["content"] == " ");
            let mut letters = from.unwrap_or_default().chars();
            let space = letters.next().filter(|_| letters.next().is_none());
            Spelling::Pieces { space }
        }
        _ => Spelling::Pieces { space: None },
    }
}

/// GPT-2's letters: printable bytes stand for themselves, the others for the code points from 256 on.
fn byte_letters() -> HashMap<char, u8> {
    let mut others = 256..;
    (0..=255u8)
        .filter_map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { Some(u32::from(byte)) } else { others.next() };
            code.and_then(char::from_u32).map(|letter| (letter, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sparkv_models::fake;

    use super::*;
    use crate::text::testing::sentencepiece;

    /// The bytes of a text's tokens, joined, are the text.
    fn check(tokenizer: &Tokenizer, text: &str, leading: &str) {
        let vocabulary = Vocabulary::new(tokenizer);
        let encoding = tokenizer.encode(text, false).unwrap();
        let bytes: Vec<u8> =
            encoding.get_ids().iter().flat_map(|&id| vocabulary.bytes(id)).copied().collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("{leading}{text}"));
    }

    #[test]
    fn bytes_of_tokens_are_those_of_the_text() {
        let text = "Gr\u{fc}\u{df}e, \u{1f642} \u{4f60}\u{597d}  two\n\ttabs \u{a0}\u{ad}";
        check(&fake::tokenizer().unwrap(), text, "");
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/tokenizer.json");
        check(&Tokenizer::from_file(demo).unwrap(), text, "");
        // sentencepiece writes a space before a text.
        check(&sentencepiece(), text, " ");
    }

    #[test]
    fn special_tokens_have_names() {
        let vocabulary = Vocabulary::new(&fake::tokenizer().unwrap());
        assert_eq!(vocabulary.tokens.len(), 258);
        assert!(vocabulary.is_special(fake::EOS) && vocabulary.is_special(9999));
        assert!(!vocabulary.is_special(fake::BYTE_OFFSET));
        assert_eq!(vocabulary.bytes(fake::EOS), b"</s>");
        assert_eq!(vocabulary.bytes(9999), b"");
    }

    /// A table of all ids up to the largest would be of 100 GB here.
    #[test]
    fn memory_does_not_follow_from_ids() {
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null, "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 4294967295}, "unk_token": "a"}}"#;
        let vocabulary = Vocabulary::new(&json.parse().unwrap());
        assert_eq!((vocabulary.bytes(0), vocabulary.bytes(u32::MAX)), (&b"a"[..], &b"b"[..]));
        assert_eq!(vocabulary.tokens.len(), 2);
    }
}
