//! A model in Hugging Face's layout.
use std::path::Path;

use super::files::{read_optional, read_required};
use super::text::TextFiles;
use crate::config::{DecoderConfig, eos_from_generation_config};
use crate::error::LoadError;

/// A model in Hugging Face's layout, but for its weights.
pub(crate) struct ModelFiles {
    /// What it is called.
    pub(crate) name: String,
    /// Where it is, for errors.
    pub(crate) place: String,
    /// `config.json`.
    pub(crate) config: String,
    /// `generation_config.json`.
    pub(crate) generation_config: Option<String>,
    pub(crate) text: TextFiles,
}

impl ModelFiles {
    /// Reads the files in `folder`.
    pub(crate) fn open(folder: &Path, name: String) -> Result<Self, LoadError> {
        Ok(Self {
            name,
            place: folder.display().to_string(),
            config: read_required(folder, "config.json")?,
            generation_config: read_optional(folder, "generation_config.json")?,
            text: TextFiles::open(folder)?,
        })
    }

    /// The model's configuration. Its end tokens are those of `generation_config.json`, else of `config.json`, else
    /// of the tokenizer.
    pub(crate) fn config(&self) -> Result<DecoderConfig, LoadError> {
        let error = |file: &str, source| LoadError::Config { file: format!("{}/{file}", self.place), source };
        let mut config =
            DecoderConfig::from_json(&self.config).map_err(|source| error("config.json", source))?;
        if let Some(json) = &self.generation_config {
            let eos =
                eos_from_generation_config(json).map_err(|source| error("generation_config.json", source))?;
            if !eos.is_empty() {
                config.eos_token_ids = eos;
            }
        }
        if config.eos_token_ids.is_empty() {
            let eos = self.text.eos_token.as_deref();
            config.eos_token_ids.extend(eos.and_then(|token| self.text.tokenizer.token_to_id(token)));
        }
        Ok(config)
    }
}
