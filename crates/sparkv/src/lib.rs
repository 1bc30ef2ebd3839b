//! SparK attention for Candle: a KV cache that costs what a request says.
//!
//! Two halves, and a border that nothing crosses upwards:
//!
//! ```text
//! settings, budget, eviction, plan, shape     what is asked for and what follows from it: values and integers
//! ----------------------------------------------------------------------------------------------------------
//! storage, cache, attention                   rows: where they are held, and what is computed over them
//! ```
//!
//! A request's wishes ([`KvOptions`]) are checked once ([`Presets::resolve`]) and become [`KvSettings`]; a [`Budget`]
//! becomes settings once the prompt's length is known. A plan says what they mean for one model and one prompt: layouts,
//! counts, and bytes, before anything is allocated.
//!
//! Each sequence owns a [`SequenceCache`]; its layers are extended and read by [`attend`] alone, the seam between the
//! decoder and everything below it, and the one place that matches on the device. What a device must do for it is the
//! trait `LayerStorage`. After the prompt went through a layer, [`LayerCache::finish_prompt`] compresses that layer:
//! tokens are evicted, channels of the survivors pruned (SparK, arXiv 2508.15212), and what is kept is quantized; the
//! dense rows are freed. What follows enters a dense tail and is quantized in blocks as it leaves the window.
//!
//! Per KV head the stored tokens are, oldest first:
//!
//! ```text
//! | sinks, dense | prefix, quantized | tail, dense: window + block that fills up |
//! ```
//!
//! With nothing to compress there is one dense store instead. A cache has two lengths: the logical one
//! (positions; RoPE) and the number of tokens stored. Keys keep the rotation of their original position.
//! Attention reads the stored rows as they are; no dense copy is ever made.

#![forbid(unsafe_code)]

pub mod accelerator;
pub mod attention;
pub mod budget;
pub mod cache;
mod eviction;
mod noise;
mod plan;
pub mod pool;
pub mod settings;
mod shape;
pub mod splitmix;
mod storage;

pub use accelerator::Accelerator;
pub use attention::attend;
pub use budget::{Budget, Calibrations, MeasuredStep, calibration_table};
pub use cache::{KvUsage, LayerCache, LayerSpan, SequenceCache, SharedPrefix, TruncateError};
pub use eviction::{Eviction, EvictionPolicy, Keep};
pub use pool::KvPool;
pub use settings::{KvChoice, KvOptions, KvSettings, Presets, SettingsError};
pub use shape::{AttentionConfig, KvShape};
pub use sparkv_kernels::{Isa, parallel};
