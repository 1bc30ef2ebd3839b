//! What turns text into tokens and back.
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::json;
use crate::source::files::{read_optional, read_required};
use crate::source::templates::{Chosen, Templates};

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

/// A template in a file of its own.
const TEMPLATE: &str = "chat_template.jinja";

/// The named ones beside it, of which one is looked for.
const TOOL_USE_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// What processors of images and text had before.
const PROCESSOR_TEMPLATE: &str = "chat_template.json";

/// Files that are used where they exist.
pub(crate) const OPTIONAL: [&str; 4] = [CONFIG, TEMPLATE, TOOL_USE_TEMPLATE, PROCESSOR_TEMPLATE];

/// Tokenizer and chat template of a model.
#[derive(Debug, Clone)]
pub struct TextFiles {
    /// Its post-processor adds the tokens that every text begins (and ends) with.
    pub tokenizer: Tokenizer,
    /// A Jinja template over `messages`, `add_generation_prompt`, `bos_token` and `eos_token`.
    pub chat_template: Option<String>,
    /// The template for conversations with tools, where the model has one of its own for them.
    pub tool_use_template: Option<String>,
    /// Text of the token that begins a sequence.
    pub bos_token: Option<String>,
    /// Text of the token that ends a sequence.
    pub eos_token: Option<String>,
    /// Files that may hold more of this, and that the hub's cache lacks because the hub could not be asked; empty for
    /// models from elsewhere.
    pub not_cached: Vec<&'static str>,
}

/// Tokens that end a turn, a message or a text in the families' fine-tunes, wherever they are special: as llama.cpp
/// knows them.
const ENDS: [&str; 13] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "</s>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

impl TextFiles {
    /// Reads `tokenizer.json` in `folder`, and `tokenizer_config.json` and the files of templates, which may be missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let tokenizer = read_required(folder, TOKENIZER)?;
        let config = read_optional(folder, CONFIG)?;
        let mut text = Self::parse(&folder.display().to_string(), &tokenizer, config.as_deref())?;
        // As in transformers, a file of its own goes before what stands in the configuration.
        if let Some(template) = read_optional(folder, TEMPLATE)? {
            text.chat_template = Some(template);
        }
        if text.chat_template.is_none()
            && let Some(json) = read_optional(folder, PROCESSOR_TEMPLATE)?
        {
            let file: TemplateFile = read_json(&folder.display().to_string(), PROCESSOR_TEMPLATE, &json)?;
            text.set_templates(file.chat_template, &folder.join(PROCESSOR_TEMPLATE).display().to_string())?;
        }
        if let Some(template) = read_optional(folder, TOOL_USE_TEMPLATE)? {
            text.tool_use_template = Some(template);
        }
        Ok(text)
    }

    /// From the texts of `tokenizer.json` and `tokenizer_config.json`, which are in `place`.
    pub(crate) fn parse(place: &str, tokenizer: &str, config: Option<&str>) -> Result<Self, LoadError> {
        let config: TokenizerConfig = match config {
            Some(config) => read_json(place, CONFIG, config)?,
            None => TokenizerConfig::default(),
        };
        let tokenizer = json::without_mark(tokenizer);
        let mut text = Self {
            tokenizer: read_tokenizer(&format!("{place}/{TOKENIZER}"), tokenizer.as_bytes())?,
            chat_template: None,
            tool_use_template: None,
            bos_token: config.bos_token.and_then(token_text),
            eos_token: config.eos_token.and_then(token_text),
            not_cached: Vec::new(),
        };
        text.set_templates(config.chat_template, &format!("{place}/{CONFIG}"))?;
        Ok(text)
    }

    /// Takes the templates that are needed from those of `file`.
    pub(crate) fn set_templates(&mut self, found: Option<Templates>, file: &str) -> Result<(), LoadError> {
        let found = found
            .map(Templates::choose)
            .transpose()
            .map_err(|names| LoadError::ChatTemplates { file: file.to_owned(), names: names.join(", ") })?;
        if let Some(Chosen { template, tool_use }) = found.flatten() {
            self.chat_template = Some(template);
            self.tool_use_template = tool_use;
        }
        Ok(())
    }

    /// Tokens that end an answer, as far as the tokenizer knows: the one it says ends a text, and special ones known by
    /// their texts.
    pub(crate) fn ends(&self) -> impl Iterator<Item = u32> {
        let stated = self.eos_token.as_deref().and_then(|token| self.tokenizer.token_to_id(token));
        let added = self.tokenizer.get_added_vocabulary();
        let known = ENDS.into_iter().filter(|text| added.is_special_token(text));
        stated.into_iter().chain(known.filter_map(|text| self.tokenizer.token_to_id(text)))
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

fn read_json<T: DeserializeOwned>(place: &str, name: &str, text: &str) -> Result<T, LoadError> {
    json::read(text).map_err(|source| LoadError::Config { file: format!("{place}/{name}"), source })
}

/// The fields of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
}

/// `chat_template.json`.
#[derive(Debug, Deserialize)]
struct TemplateFile {
    chat_template: Option<Templates>,
}

/// A token is written as its text, or as an object that describes it.
fn token_text(token: Value) -> Option<String> {
    match token {
        Value::String(text) => Some(text),
        Value::Object(fields) => fields.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}
