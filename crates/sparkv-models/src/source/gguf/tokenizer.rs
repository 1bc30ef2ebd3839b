//! The tokenizer in a GGUF file's metadata.
//!
//! It is written down as the `tokenizer.json` that would mean the same and read from that, so both kinds of
//! model run through one implementation.
use std::collections::{BTreeMap, HashMap};

use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};

use super::pre_tokenizer::PreTokenizer;
use super::{GgufFile, as_count};
use crate::error::LoadError;
use crate::source::templates::{DEFAULT, Templates};
use crate::source::text::{TextFiles, read_tokenizer};

/// llama.cpp's token types, as far as they matter here.
const NORMAL: usize = 1;
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

/// How SentencePiece writes a space.
const SPM_SPACE: &str = "\u{2581}";

/// The vocabulary: texts and types of the tokens, by id.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<usize>,
}

impl GgufFile {
    /// Tokenizer, chat template and the special tokens that templates use.
    ///
    /// # Errors
    /// If the tokenizer is missing, incomplete, or of a kind that is not supported.
    pub fn text_files(&self) -> Result<TextFiles, LoadError> {
        let vocabulary = self.vocabulary()?;
        let kind = self.text("tokenizer.ggml.model")?;
        let (mut tokenizer, adds_bos) = match kind {
            Some("gpt2") => {
                let pre = self.pre_tokenizer()?;
                (self.byte_level_bpe(&vocabulary, pre)?, pre.adds_bos)
            }
            Some("llama") => (self.sentencepiece_bpe(&vocabulary)?, true),
            Some(kind) => {
                let reason = format!("tokenizer.ggml.model = `{kind}`; it may be gpt2 or llama");
                return Err(self.tokenizer_error(reason));
            }
            None => {
                return Err(self.tokenizer_error(
                    "the file has no tokenizer.ggml.model; convert the model with its tokenizer",
                ));
            }
        };
        let bos = self.special_token("bos", &vocabulary)?;
        let eos = self.special_token("eos", &vocabulary)?;
        let adds_bos = self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let adds_eos = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let before = bos.as_ref().filter(|_| adds_bos);
        let after = eos.as_ref().filter(|_| adds_eos);
        if let Json::Object(fields) = &mut tokenizer {
            fields.insert("version".to_owned(), json!("1.0"));
            fields.insert("added_tokens".to_owned(), vocabulary.added_tokens());
            fields.insert("post_processor".to_owned(), post_processor(before, after));
        }
        let mut text = TextFiles {
            tokenizer: read_tokenizer(&self.first.name, tokenizer.to_string().as_bytes())?,
            chat_template: None,
            tool_use_template: None,
            bos_token: bos.map(|(token, _)| token),
            eos_token: eos.map(|(token, _)| token),
            not_cached: Vec::new(),
        };
        text.set_templates(self.templates()?, &self.first.name)?;
        Ok(text)
    }

    /// The default template at `tokenizer.chat_template`, others at `tokenizer.chat_template.NAME`, all of whose names
    /// are at `tokenizer.chat_templates`.
    fn templates(&self) -> Result<Option<Templates>, LoadError> {
        const KEY: &str = "tokenizer.chat_template";
        let names = self.array("tokenizer.chat_templates", as_text)?.unwrap_or_default();
        let mut templates: BTreeMap<String, String> =
            self.text(KEY)?.map(|template| (DEFAULT.to_owned(), template.to_owned())).into_iter().collect();
        for name in names.into_iter().filter(|name| name != DEFAULT) {
            if let Some(template) = self.text(&format!("{KEY}.{name}"))? {
                templates.insert(name, template.to_owned());
            }
        }
        Ok((!templates.is_empty()).then_some(Templates::ByName(templates)))
    }

    fn tokenizer_error(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Tokenizer { file: self.first.name.clone(), reason: reason.into() }
    }

    fn vocabulary(&self) -> Result<Vocabulary, LoadError> {
        let tokens = self
            .array("tokenizer.ggml.tokens", as_text)?
            .ok_or_else(|| self.tokenizer_error("the file has no tokenizer.ggml.tokens"))?;
        let types = match self.array("tokenizer.ggml.token_type", as_count)? {
            Some(types) if types.len() == tokens.len() => types,
            Some(_) => return Err(self.corrupt("`tokenizer.ggml.token_type` is not one per token")),
            None => vec![NORMAL; tokens.len()],
        };
        Ok(Vocabulary { tokens, types })
    }

    /// The token whose id is at tokenizer.ggml.`name`_token_id.
    fn special_token(&self, name: &str, vocabulary: &Vocabulary) -> Result<Option<(String, u32)>, LoadError> {
        let Some(id) = self.token_id(name)? else { return Ok(None) };
        match vocabulary.tokens.get(id as usize) {
            Some(token) => Ok(Some((token.clone(), id))),
            None => {
                Err(self
                    .corrupt(format!("`tokenizer.ggml.{name}_token_id` = {id} is outside the vocabulary")))
            }
        }
    }

    fn pre_tokenizer(&self) -> Result<&'static PreTokenizer, LoadError> {
        let name = self.text("tokenizer.ggml.pre")?.filter(|name| !name.is_empty()).unwrap_or("default");
        PreTokenizer::named(name).ok_or_else(|| {
            let known = PreTokenizer::names().collect::<Vec<_>>().join(", ");
            self.tokenizer_error(format!("tokenizer.ggml.pre = `{name}`; known are {known}"))
        })
    }

    /// `tokenizer.ggml.model` = gpt2: merges over the bytes of pre-tokenized words.
    fn byte_level_bpe(&self, vocabulary: &Vocabulary, pre: &PreTokenizer) -> Result<Json, LoadError> {
        let merges = self
            .array("tokenizer.ggml.merges", as_text)?
            .ok_or_else(|| self.tokenizer_error("the file has no tokenizer.ggml.merges"))?;
        let pairs: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
        let pairs =
            pairs.ok_or_else(|| self.corrupt("`tokenizer.ggml.merges` has an entry without a space"))?;
        let mut steps: Vec<Json> = pre
            .patterns
            .iter()
            .map(|p| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false}))
            .collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        steps.push(byte_level.clone());
        Ok(json!({
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": vocabulary.ids(),
                "merges": pairs,
                "ignore_merges": pre.ignores_merges,
            },
        }))
    }

    /// `tokenizer.ggml.model` = llama: SentencePiece's BPE, whose pieces have scores in place of merges and
    /// which writes what it has no piece for as bytes.
    fn sentencepiece_bpe(&self, vocabulary: &Vocabulary) -> Result<Json, LoadError> {
        let scores = self
            .array("tokenizer.ggml.scores", as_float)?
            .filter(|scores| scores.len() == vocabulary.tokens.len())
            .ok_or_else(|| self.tokenizer_error("tokenizer.ggml.scores is not one per token"))?;
        let unknown = self.special_token("unknown", vocabulary)?.map(|(token, _)| token);
        let adds_space = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPM_SPACE})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPM_SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if adds_space {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPM_SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "vocab": vocabulary.ids(),
                "merges": vocabulary.merges(&scores),
                "unk_token": unknown,
                "fuse_unk": true,
                "byte_fallback": true,
            },
        }))
    }
}

impl Vocabulary {
    fn ids(&self) -> HashMap<&str, usize> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect()
    }

    /// Tokens that are found in the text before anything else: control tokens, hidden from decoded text, and
    /// tokens that users added.
    fn added_tokens(&self) -> Json {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        let added = tokens.filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
        let added = added.map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "special": kind != USER_DEFINED,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        });
        Json::Array(added.collect())
    }

    /// All ways to put a piece together from two others, best piece first: what SentencePiece decides by
    /// score when it merges, as a list of merges.
    fn merges(&self, scores: &[f32]) -> Vec<(&str, &str)> {
        let ids = self.ids();
        let mut merges = Vec::new();
        for ((piece, &score), &kind) in self.tokens.iter().zip(scores).zip(&self.types) {
            if kind != NORMAL {
                continue;
            }
            let splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            merges.extend(
                splits
                    .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
                    .map(|(left, right)| (score, left, right)),
            );
        }
        // Among the splits of one piece, the longer left part first.
        merges.sort_by(|(a, left_a, _), (b, left_b, _)| b.total_cmp(a).then(left_b.len().cmp(&left_a.len())));
        merges.into_iter().map(|(_, left, right)| (left, right)).collect()
    }
}

/// Tokens that every text begins and ends with.
fn post_processor(before: Option<&(String, u32)>, after: Option<&(String, u32)>) -> Json {
    if before.is_none() && after.is_none() {
        return Json::Null;
    }
    let special = |type_id: u32, token: Option<&(String, u32)>| {
        token.map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": type_id}}))
    };
    let sequence = |id: &str, type_id: u32| {
        let text = json!({"Sequence": {"id": id, "type_id": type_id}});
        special(type_id, before).into_iter().chain([text]).chain(special(type_id, after)).collect::<Vec<_>>()
    };
    let specials: serde_json::Map<String, Json> = [before, after]
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": specials,
    })
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn as_float(value: &Value) -> Option<f32> {
    match value {
        Value::F32(number) => Some(*number),
        _ => None,
    }
}
