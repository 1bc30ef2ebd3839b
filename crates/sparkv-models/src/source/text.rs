//! What turns text into tokens and back.
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::source::files::{read_optional, read_required};

/// Tokenizer and chat template of a model.
#[derive(Debug, Clone)]
pub struct TextFiles {
    /// Its post-processor adds the tokens that every text begins (and ends) with.
    pub tokenizer: Tokenizer,
    /// A Jinja template over `messages`, `add_generation_prompt`, `bos_token` and `eos_token`.
    pub chat_template: Option<String>,
    /// Text of the token that begins a sequence.
    pub bos_token: Option<String>,
    /// Text of the token that ends a sequence.
    pub eos_token: Option<String>,
}

impl TextFiles {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` in `folder`; the last two
    /// may be missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let tokenizer = read_required(folder, "tokenizer.json")?;
        let config = read_optional(folder, "tokenizer_config.json")?;
        let template = read_optional(folder, "chat_template.jinja")?;
        let name = |file| folder.join(file).display().to_string();
        let mut text = Self::parse(&name("tokenizer.json"), &tokenizer, config.as_deref())?;
        text.chat_template = template.or(text.chat_template);
        Ok(text)
    }

    /// From the texts of `tokenizer.json`, called `name` in errors, and `tokenizer_config.json`.
    pub(crate) fn parse(name: &str, tokenizer: &str, config: Option<&str>) -> Result<Self, LoadError> {
        let config: TokenizerConfig = match config {
            Some(config) => serde_json::from_str(config).map_err(|error| LoadError::Tokenizer {
                file: name.to_owned(),
                reason: format!("tokenizer_config.json: {error}"),
            })?,
            None => TokenizerConfig::default(),
        };
        Ok(Self {
            tokenizer: read_tokenizer(name, tokenizer.as_bytes())?,
            chat_template: config.chat_template.and_then(Template::default),
            bos_token: config.bos_token.and_then(token_text),
            eos_token: config.eos_token.and_then(token_text),
        })
    }
}

/// Reads a `tokenizer.json`, without the truncation and padding it may ask for: those are for training.
pub(crate) fn read_tokenizer(name: &str, json: &[u8]) -> Result<Tokenizer, LoadError> {
    let error =
        |error: tokenizers::Error| LoadError::Tokenizer { file: name.to_owned(), reason: error.to_string() };
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(error)?;
    tokenizer.with_truncation(None).map_err(error)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The fields of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Template>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
}

/// One template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Template {
    fn default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(all) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
        }
    }
}

/// A token is written as its text, or as an object that describes it.
fn token_text(token: Value) -> Option<String> {
    match token {
        Value::String(text) => Some(text),
        Value::Object(fields) => fields.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}
