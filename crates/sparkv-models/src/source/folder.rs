//! A model in Hugging Face's layout.
use std::path::Path;

use super::files::{read_optional, read_required};
use super::text::TextFiles;
use crate::config::{ConfigError, DecoderConfig, GenerationConfig};
use crate::error::LoadError;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const GENERATION: &str = "generation_config.json";

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
            config: read_required(folder, CONFIG)?,
            generation_config: read_optional(folder, GENERATION)?,
            text: TextFiles::open(folder)?,
        })
    }

    /// What `generation_config.json` says; nothing if there is none.
    pub(crate) fn generation(&self) -> Result<GenerationConfig, LoadError> {
        let Some(json) = &self.generation_config else { return Ok(GenerationConfig::default()) };
        GenerationConfig::from_json(json).map_err(|source| self.error(GENERATION, source))
    }

    /// The model's configuration. Its end tokens are those of `config.json`, of `generation`, and of the tokenizer,
    /// together.
    pub(crate) fn config(&self, generation: &GenerationConfig) -> Result<DecoderConfig, LoadError> {
        let mut config =
            DecoderConfig::from_json(&self.config).map_err(|source| self.error(CONFIG, source))?;
        config.add_ends(generation.eos_token_ids.iter().copied());
        config.add_ends(self.text.ends());
        Ok(config)
    }

    fn error(&self, file: &str, source: ConfigError) -> LoadError {
        LoadError::Config { file: format!("{}/{file}", self.place), source }
    }
}
