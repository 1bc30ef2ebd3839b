//! SparK attention for Candle: a KV cache that costs what a request says.
//!
//! A request's wishes ([`KvOptions`]) are checked once ([`Presets::resolve`]) and become [`KvSettings`].
//! Each sequence owns a [`SequenceCache`]; its layers are extended and read by [`attend`] alone, the seam
//! between the decoder and everything below it. After the prompt went through a layer,
//! [`LayerCache::finish_prompt`] compresses that layer: tokens are evicted, channels of the survivors pruned
//! (SparK, arXiv 2508.15212), kept values quantized and all of it packed; the dense rows are freed.
//! What follows enters a dense tail and is packed in blocks as it leaves the window.
//!
//! Per KV head the stored tokens are, oldest first:
//!
//! ```text
//! | sinks, dense | prefix, packed | tail, dense: window + block that fills up |
//! ```
//!
//! With nothing to compress there is one dense store instead. A cache has two lengths: the logical one
//! (positions; RoPE) and the number of tokens stored. Keys keep the rotation of their original position.
//! Attention reads the stored rows as they are; no dense copy is ever made.

#![forbid(unsafe_code)]

pub mod attention;
pub mod budget;
pub mod cache;
mod calibration;
pub mod eviction;
mod fill;
mod head;
mod observe;
mod options;
pub mod parallel;
pub mod plan;
pub mod pool;
mod rows;
mod sample;
mod select;
pub mod settings;
mod window;

pub use attention::{AttentionConfig, Span, attend};
pub use budget::Budget;
pub use cache::{KvUsage, LayerCache, SequenceCache, SharedPrefix};
pub use plan::KvShape;
pub use pool::KvPool;
pub use settings::{KvChoice, KvOptions, KvSettings, Presets, SettingsError};
