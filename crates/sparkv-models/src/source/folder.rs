//! A model in Hugging Face's layout.
use std::path::Path;

use super::files::{read_optional, read_required};
use super::text::TextFiles;
use crate::config::{DecoderConfig, eos_from_generation_config};
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

    /// The model's configuration. Its end tokens are those of `config.json`, of `generation_config.json`, and of the
    /// tokenizer, together.
    pub(crate) fn config(&self) -> Result<DecoderConfig, LoadError> {
        let error = |file: &str, source| LoadError::Config { file: format!("{}/{file}", self.place), source };
        let mut config = DecoderConfig::from_json(&self.config).map_err(|source| error(CONFIG, source))?;
        if let Some(json) = &self.generation_config {
            let ends = eos_from_generation_config(json).map_err(|source| error(GENERATION, source))?;
            config.add_ends(ends);
        }
        config.add_ends(self.text.ends());
        Ok(config)
    }
}
