//! One decoder for the Llama family and the loaders that fill it. (Being written; the surface below is settled.)
pub mod fake;
pub mod language_model;

pub use language_model::{DecodeStep, LanguageModel, ModelError, ModelInfo};
