//! One decoder for the Llama family, and the sources that fill it.
//!
//! A model runs in two halves that know nothing of each other. [`Decoder`] is the network: it takes token
//! ids and a [`sparkv::SequenceCache`] and gives logits, for any shape that a [`DecoderConfig`] describes
//! and any [`WeightFormat`]. Everything that knows of attention and of the cache is behind
//! [`sparkv::attend`]. The sources know files: a [`TensorSource`] hands tensors over under one set of names
//! and in one order of rows, whether they come from safetensors ([`SafetensorsFiles`]), from GGUF
//! ([`GgufFile`]), or are made up ([`load_dummy`]).
//!
//! - `family/`: what Llama and Mistral have of their own, as values; a family more is a file there.
//! - `span`: tokens of a sequence on their way through the layers; `step`: a batch of spans.
//! - [`config`]: the shape of a model, read from `config.json` and checked.
//! - `source/`: where tensors and texts come from; `json`: JSON as Python writes it.
//! - `linear/`: products with weight matrices. `ops/`: what else is done to rows, for each device.
//! - [`profile`]: where the time of a step goes.
//! - [`fake`]: a model without weights, for tests of the engine and the server.
//!
//! The device is chosen in [`LoadOptions`] and goes from there to sources, weights and operations. Only the CPU is
//! let in so far ([`DeviceChoice::open`]); `ops/plain.rs` is what another device starts from.
//!
//! [`load()`] is the way in for everybody else. The engine knows a model by [`LanguageModel`] only.
//!
//! ```no_run
//! use sparkv_models::{LanguageModel, LoadOptions, ModelSource, load};
//!
//! let model = load(&ModelSource::Demo, &LoadOptions::default(), &())?;
//! println!("{} has {} tokens", model.name, model.decoder.info().vocab_size);
//! # Ok::<(), sparkv_models::LoadError>(())
//! ```
pub mod config;
mod decoder;
mod decoder_language_model;
mod device;
mod error;
pub mod fake;
mod family;
mod json;
pub mod language_model;
mod linear;
mod load;
mod logits;
mod ops;
pub mod profile;
pub mod progress;
mod source;
mod span;
mod step;
mod weights;

pub use config::{AdvisedSampling, ConfigError, DecoderConfig, GenerationConfig};
pub use decoder::Decoder;
pub use device::{DeviceChoice, Place};
pub use error::LoadError;
pub use language_model::{LanguageModel, ModelError, ModelInfo, PREFILL_CHUNK, SpanStep};
pub use load::{LoadOptions, LoadedModel, check, load, load_dummy, load_to};
pub use logits::{Logits, LogitsRows, LogitsWanted};
pub use progress::Progress;
pub use source::ModelSource;
pub use source::gguf::{GgufFile, GgufWeights};
pub use source::hub::cache::CachedModel;
pub use source::hub::name::HubName;
pub use source::hub::removal::Removal;
pub use source::hub::repo::HubFiles;
pub use source::hub::{self, HubOptions};
pub use source::safetensors::SafetensorsFiles;
pub use source::text::TextFiles;
pub use span::Span;
pub use weights::{Stored, TensorSource, WeightFormat, ggml_type};
