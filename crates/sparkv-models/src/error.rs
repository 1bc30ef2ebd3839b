//! What can go wrong while a model is loaded.
use std::path::PathBuf;

use crate::config::ConfigError;

/// A model that cannot be loaded, and why.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `--model` names nothing that exists.
    #[error("no model at `{0}`: expected a folder, a .gguf file, or a hub name like ORG/NAME")]
    NoSuchModel(String),
    /// A file that a model needs is not there.
    #[error("{} has no {file}", folder.display())]
    MissingFile {
        /// The model's folder.
        folder: PathBuf,
        /// What is missing, e.g. `config.json`.
        file: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says: truncated, corrupt, or of another format.
    #[error("{file} is corrupt or incomplete: {reason}")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model's configuration is unsupported or makes no sense.
    #[error("{file}: {source}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The weights lack a tensor.
    #[error("the weights have no tensor `{name}`")]
    MissingTensor {
        /// Its name in the file.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, the configuration needs {expected:?}")]
    Shape {
        /// Its name in the file.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's type is not supported.
    #[error("tensor `{name}` is of unsupported type {dtype}; supported are {supported}")]
    TensorType {
        /// Its name in the file.
        name: String,
        /// Its type.
        dtype: String,
        /// The types that are.
        supported: &'static str,
    },
    /// The tokenizer cannot be used.
    #[error("{file}: unsupported tokenizer: {reason}")]
    Tokenizer {
        /// Where it was read from.
        file: String,
        /// Why not.
        reason: String,
    },
    /// The device cannot be used.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why not.
        reason: &'static str,
    },
    /// Offline, and the hub's cache lacks a file.
    #[error("offline, and the cache {} lacks {file} of {repo}", cache.display())]
    NotCached {
        /// The hub's name of the model.
        repo: String,
        /// The file.
        file: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub did not deliver.
    #[error("cannot get {file} of {repo} from the hub: {reason}")]
    Hub {
        /// The hub's name of the model.
        repo: String,
        /// The file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// A computation on the weights failed.
    #[error("cannot prepare the weights: {0}")]
    Candle(#[from] candle_core::Error),
}
