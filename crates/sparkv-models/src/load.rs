//! Loading a model from wherever it is.
use std::path::Path;

use crate::config::{DecoderConfig, eos_from_generation_config};
use crate::decoder::Decoder;
use crate::demo;
use crate::error::LoadError;
use crate::files::{read_optional, read_required};
use crate::gguf::{GgufFile, GgufWeights};
use crate::hub::{self, HubOptions};
use crate::progress::Progress;
use crate::safetensors_files::SafetensorsFiles;
use crate::source::{DeviceChoice, ModelSource};
use crate::text::TextFiles;
use crate::weights::{TensorSource, WeightFormat};

/// How a model is to be loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Format in which weights are held.
    pub weights: WeightFormat,
    /// What it runs on.
    pub device: DeviceChoice,
    /// How to reach the hub.
    pub hub: HubOptions,
}

/// A model, ready to run.
#[derive(Debug)]
pub struct LoadedModel {
    /// The network.
    pub decoder: Decoder,
    /// What turns text into its tokens and back.
    pub text: TextFiles,
    /// What it is called in answers: the hub's name, or that of the folder or file.
    pub name: String,
}

/// Loads a model.
///
/// # Errors
/// If it is not there, not supported, or its files are incomplete or corrupt; the message names the file,
/// tensor or option.
pub fn load(
    source: &ModelSource,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    options.device.open()?;
    match source {
        ModelSource::Demo => demo::load(options.weights, progress),
        ModelSource::Folder(folder) => load_folder(folder, name_of(folder), options.weights, progress),
        ModelSource::Gguf(path) => load_gguf(path, options.weights, progress),
        ModelSource::Hub(repo) => {
            let folder = hub::fetch(repo, &options.hub, progress)?;
            load_folder(&folder, repo.clone(), options.weights, progress)
        }
    }
}

fn load_folder(
    folder: &Path,
    name: String,
    weights: WeightFormat,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    let files = ModelFiles {
        name,
        place: folder.display().to_string(),
        config: read_required(folder, "config.json")?,
        generation_config: read_optional(folder, "generation_config.json")?,
        text: TextFiles::open(folder)?,
    };
    files.load(&SafetensorsFiles::open(folder)?, weights, progress)
}

fn load_gguf(path: &Path, weights: WeightFormat, progress: &dyn Progress) -> Result<LoadedModel, LoadError> {
    let file = GgufFile::open(path)?;
    let config = file.config()?;
    let text = file.text_files()?;
    let decoder = Decoder::load(&config, &GgufWeights::new(&file, &config), weights, progress)?;
    Ok(LoadedModel { decoder, text, name: name_of(&path.with_extension("")) })
}

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
    pub(crate) fn load(
        self,
        source: &dyn TensorSource,
        weights: WeightFormat,
        progress: &dyn Progress,
    ) -> Result<LoadedModel, LoadError> {
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
        let decoder = Decoder::load(&config, source, weights, progress)?;
        Ok(LoadedModel { decoder, text: self.text, name: self.name })
    }
}

/// The last part of a path, of its absolute form if it is one like `.`.
fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).ok();
    let name = path.file_name().or_else(|| absolute.as_deref().and_then(Path::file_name));
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
