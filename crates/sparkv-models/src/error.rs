//! What can go wrong while a model is loaded.
use std::path::PathBuf;

use crate::config::ConfigError;

/// A model that cannot be loaded, and why.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `--model` names nothing that exists.
    #[error(
        "no model at `{0}`: expected a folder, a GGUF file, or a hub name like ORG/NAME or ORG/NAME:Q4_K_M"
    )]
    NoSuchModel(String),
    /// `--model` names a file of another kind.
    #[error("{} is no GGUF file; of a model in safetensors, name the folder", .0.display())]
    NotGguf(PathBuf),
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
    #[error("tensor `{name}` is {}, the configuration needs {}", written(found), written(expected))]
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
    /// None of several chat templates is meant for all conversations.
    #[error("{file}: chat_template has no `default` among {names}; name one of them so")]
    ChatTemplates {
        /// The file.
        file: String,
        /// What they are called.
        names: String,
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
        /// What it lacks, and what may be done.
        reason: String,
    },
    /// There is no memory for caches.
    #[error("cannot take {memory} of the device's memory for KV caches: {reason}")]
    KvMemory {
        /// What was asked for.
        memory: String,
        /// Why not.
        reason: String,
    },
    /// Offline, and the hub's cache lacks a file.
    #[error("offline, and the cache {} lacks {file} of {name}; run `sparkv pull {name}` once online (`sparkv list` shows what there is)", cache.display())]
    NotCached {
        /// The hub's name of the model.
        name: String,
        /// The file.
        file: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub's cache does not have what is to be removed.
    #[error("{name} is not in the cache {}: {reason}; `sparkv list` shows what is", cache.display())]
    NotInCache {
        /// The hub's name of the model.
        name: String,
        /// What is not there.
        reason: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// Something in the hub's cache cannot be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// What it is.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
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
    #[error("cannot prepare the weights: {}", without_backtrace(.0))]
    Candle(candle_core::Error),
}

// Not by `#[from]`, which would make the error its own source: whoever prints sources would print a backtrace.
impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}

/// What an error of Candle says. Its own text goes on with a backtrace where RUST_BACKTRACE is set.
pub(crate) fn without_backtrace(error: &candle_core::Error) -> String {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    match error {
        WithBacktrace { inner, .. } => without_backtrace(inner),
        WithPath { inner, path } => format!("{}: {}", path.display(), without_backtrace(inner)),
        Context { inner, context } => format!("{context}: {}", without_backtrace(inner)),
        other => other.to_string(),
    }
}

/// A shape as people write it: `2048 x 64`.
fn written(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "a single number".to_owned();
    }
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language_model::ModelError;

    #[test]
    fn errors_of_candle_are_told_without_their_backtraces() {
        let error = || {
            let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
            let inner = Box::new(candle_core::Error::Msg("no blocks".to_owned()));
            candle_core::Error::WithBacktrace { inner, backtrace }.with_path("a.gguf").context("at the head")
        };
        assert!(error().to_string().lines().count() > 3, "there is a backtrace to be left out");
        let told = "at the head: a.gguf: no blocks";
        let (load, model) = (LoadError::from(error()), ModelError::from(error()));
        assert_eq!(load.to_string(), format!("cannot prepare the weights: {told}"));
        assert_eq!(model.to_string(), format!("the model's computation failed: {told}"));
        let sources = [std::error::Error::source(&load), std::error::Error::source(&model)];
        assert!(sources.iter().all(Option::is_none));
    }
}
