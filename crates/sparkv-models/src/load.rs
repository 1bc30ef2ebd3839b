//! Loading a model from wherever it is.
use std::path::Path;

use candle_core::Device;
use sparkv::Budget;

use crate::config::{AdvisedSampling, DecoderConfig};
use crate::decoder::Decoder;
use crate::device::{DeviceChoice, Place};
use crate::error::LoadError;
use crate::progress::Progress;
use crate::source::dummy::Random;
use crate::source::folder::ModelFiles;
use crate::source::gguf::{self, GgufFile, GgufWeights};
use crate::source::hub::repo::{HubFiles, not_cached};
use crate::source::hub::{self, HubOptions};
use crate::source::safetensors::SafetensorsFiles;
use crate::source::text::TextFiles;
use crate::source::{ModelSource, demo};
use crate::weights::{TensorSource, WeightFormat};

/// How a model is to be loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Format in which weights are held.
    pub weights: WeightFormat,
    /// What it runs on.
    pub device: DeviceChoice,
    /// Memory that caches may take on a device; the CPU's is taken as it is needed.
    pub kv_memory: Budget,
    /// How to reach the hub.
    pub hub: HubOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::default(),
            device: DeviceChoice::default(),
            kv_memory: Budget::Share(0.75),
            hub: HubOptions::default(),
        }
    }
}

/// A model, ready to run.
#[derive(Debug)]
pub struct LoadedModel {
    /// The network.
    pub decoder: Decoder,
    /// What turns text into its tokens and back.
    pub text: TextFiles,
    /// How its authors would have tokens drawn.
    pub sampling: AdvisedSampling,
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
    load_to(source, options, &Place::on(&options.device.open()?)?, progress)
}

/// Loads a model to a place, whatever device the options name.
///
/// # Errors
/// As of [`load()`].
pub fn load_to(
    source: &ModelSource,
    options: &LoadOptions,
    place: &Place,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    let mut model = load_source(source, options, place, progress)?;
    model.decoder.take_kv_memory(options.kv_memory)?;
    Ok(model)
}

fn load_source(
    source: &ModelSource,
    options: &LoadOptions,
    place: &Place,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    match source {
        ModelSource::Demo => load_files(demo::files()?, &demo::weights()?, options.weights, place, progress),
        ModelSource::Folder(folder) => load_folder(folder, name_of(folder), options.weights, place, progress),
        ModelSource::Gguf(path) => load_gguf(path, options.weights, place, progress),
        ModelSource::Hub(name) => match hub::fetch(name, &options.hub, progress)? {
            HubFiles::Folder(folder) => {
                let mut model = load_folder(&folder, name.model_name(), options.weights, place, progress)?;
                model.text.not_cached = not_cached(&folder);
                Ok(model)
            }
            HubFiles::Gguf(path) => {
                let model = load_gguf(&path, options.weights, place, progress)?;
                Ok(LoadedModel { name: name.model_name(), ..model })
            }
        },
    }
}

/// Looks whether a model could be loaded, by what its files say of themselves; weights are not read. Returns the tokens of its
/// context; of a model on the hub nothing is said.
///
/// # Errors
/// As of [`load()`].
pub fn check(source: &ModelSource) -> Result<Option<usize>, LoadError> {
    let config = match source {
        ModelSource::Hub(_) => return Ok(None),
        ModelSource::Demo => {
            let files = demo::files()?;
            files.config(&files.generation()?)?
        }
        ModelSource::Folder(folder) => {
            let files = ModelFiles::open(folder, name_of(folder))?;
            let config = files.config(&files.generation()?)?;
            SafetensorsFiles::open(folder)?;
            config
        }
        ModelSource::Gguf(path) => GgufFile::open(path)?.config()?,
    };
    Ok(Some(config.context_length))
}

/// A decoder on `device` of the shape in `config` with random weights, the same for the same `seed`.
///
/// Made quickly, in the format asked for: no f32 copy of a quantized matrix is ever made. No token ends its answers, which
/// mean nothing.
///
/// # Errors
/// If the weights cannot be held in `format`.
pub fn load_dummy(
    config: &DecoderConfig,
    format: WeightFormat,
    seed: u64,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Decoder, LoadError> {
    let config = DecoderConfig { eos_token_ids: Vec::new(), ..config.clone() };
    Decoder::load(&config, &Random::new(seed, format.for_matrices()), format, device, progress)
}

fn load_folder(
    folder: &Path,
    name: String,
    weights: WeightFormat,
    place: &Place,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    let files = ModelFiles::open(folder, name)?;
    load_files(files, &SafetensorsFiles::open(folder)?, weights, place, progress)
}

fn load_files(
    files: ModelFiles,
    source: &dyn TensorSource,
    weights: WeightFormat,
    place: &Place,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    let generation = files.generation()?;
    let decoder = Decoder::load_to(&files.config(&generation)?, source, weights, place, progress)?;
    Ok(LoadedModel { decoder, text: files.text, sampling: generation.sampling, name: files.name })
}

fn load_gguf(
    path: &Path,
    weights: WeightFormat,
    place: &Place,
    progress: &dyn Progress,
) -> Result<LoadedModel, LoadError> {
    let file = GgufFile::open(path)?;
    let mut config = file.config()?;
    let text = file.text_files()?;
    config.add_ends(text.ends());
    let decoder = Decoder::load_to(&config, &GgufWeights::new(&file, &config), weights, place, progress)?;
    let sampling = file.sampling()?;
    Ok(LoadedModel { decoder, text, sampling, name: name_of(&gguf::model_name(path)) })
}

/// The last part of a path, of its absolute form if it is one like `.`.
fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).ok();
    let name = path.file_name().or_else(|| absolute.as_deref().and_then(Path::file_name));
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
