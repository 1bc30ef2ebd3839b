//! What a request may ask of its KV cache, and the checked form of it.
//!
//! [`KvOptions`] is the wire form: the `kv_cache` object of a request body, the tables of the TOML file and
//! the argument of `--kv` all parse into it. [`Presets::resolve`] turns it into a [`KvChoice`], the only way
//! to obtain [`KvSettings`]: settings that exist are valid.

mod check;
mod options;
mod precision;
mod presets;

use sparkv_kernels::BLOCK;

use crate::budget::{Budget, Calibrations};
use crate::eviction::Eviction;

pub use crate::eviction::{EvictionPolicy, Keep};
pub(crate) use check::check;
pub use options::{EvictionOptions, KvOptions, PruningOptions, QueryStatistic};
pub use precision::{Allocation, Precision, PrecisionOptions};
pub use presets::Presets;

/// Length of the observation window and of the dense recent tail, if nothing else is asked.
pub const DEFAULT_WINDOW: usize = 32;

/// The longest window a request may ask for: window queries are held in f32 during the prompt.
pub const MAX_WINDOW: usize = 1024;

/// First tokens of a sequence that are never evicted or pruned (attention sinks), if nothing else is asked.
pub const DEFAULT_SINKS: usize = 4;

/// The preset that holds when nothing is set: an uncompressed f16 cache.
pub const EXACT: &str = "exact";

/// The preset name reported for settings that were spelled out.
pub const CUSTOM: &str = "custom";

/// The preset name reported for settings that a budget chose.
pub const BUDGET: &str = "budget";

/// A setting that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SettingsError {
    /// Path of the offending field below `kv_cache`, e.g. `pruning.key_ratio`.
    pub param: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SettingsError {
    pub(crate) fn new(param: &str, message: impl Into<String>) -> Self {
        Self { param: param.to_owned(), message: message.into() }
    }
}

/// Checked settings of one sequence's cache. Made by [`Presets::resolve`] alone, so never invalid.
#[derive(Debug, Clone, PartialEq)]
pub struct KvSettings {
    pub(crate) preset: String,
    pub(crate) eviction: Option<Eviction>,
    pub(crate) key_ratio: f64,
    pub(crate) value_ratio: f64,
    pub(crate) query_statistic: QueryStatistic,
    pub(crate) center_keys: bool,
    pub(crate) key_precision: Precision,
    pub(crate) value_precision: Precision,
    pub(crate) allocation: Allocation,
    pub(crate) window: usize,
    pub(crate) sinks: usize,
    pub(crate) continues: bool,
    pub(crate) keep_system: bool,
    /// The first tokens of the prompt that a policy does not drop.
    pub(crate) system_tokens: usize,
}

impl KvSettings {
    /// The uncompressed f16 cache.
    pub fn exact() -> Self {
        Self {
            preset: EXACT.to_owned(),
            eviction: None,
            key_ratio: 0.0,
            value_ratio: 0.0,
            query_statistic: QueryStatistic::default(),
            center_keys: false,
            key_precision: Precision::F16,
            value_precision: Precision::F16,
            allocation: Allocation::Query,
            window: DEFAULT_WINDOW,
            sinks: DEFAULT_SINKS,
            continues: false,
            keep_system: true,
            system_tokens: 0,
        }
    }

    /// Name of the preset these are, or `custom`, or `budget`.
    pub fn preset(&self) -> &str {
        &self.preset
    }

    /// Which tokens stay; all if `None`.
    pub fn eviction(&self) -> Option<Eviction> {
        self.eviction
    }

    /// Share of key channels pruned, in [0, 1).
    pub fn key_ratio(&self) -> f64 {
        self.key_ratio
    }

    /// Share of value channels pruned, in [0, 1).
    pub fn value_ratio(&self) -> f64 {
        self.value_ratio
    }

    /// How keys that are not pruned are stored. Of those that are, kept channels are int8, or f32 where this is.
    pub fn key_precision(&self) -> Precision {
        self.key_precision
    }

    /// The same of values.
    pub fn value_precision(&self) -> Precision {
        self.value_precision
    }

    /// Whether keys' bits are allotted to channels by what queries ask of them.
    pub fn allots_bits(&self) -> bool {
        let few = self.key_precision.few_bits().is_some() && self.key_ratio == 0.0;
        few && self.allocation == Allocation::Query
    }

    /// How keys and values are stored, in words: `int8`, `int4 query`, `int8, 75 % pruned`.
    pub fn rows(&self) -> [String; 2] {
        let keys = match self.key_precision.few_bits() {
            Some(_) => format!("{} {}", self.key_precision, self.allocation),
            None => self.key_precision.to_string(),
        };
        [(keys, self.key_ratio), (self.value_precision.to_string(), self.value_ratio)].map(
            |(whole, ratio)| {
                let kept = if whole == "f32" { whole.as_str() } else { "int8" };
                if ratio > 0.0 { format!("{kept}, {:.0} % pruned", 100.0 * ratio) } else { whole }
            },
        )
    }

    /// Tokens of the observation window and of the recent dense tail.
    pub fn window(&self) -> usize {
        self.window
    }

    /// First tokens that are never evicted or pruned.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// Whether the cache is kept, compressed as it is, for the request that continues the conversation. Never where
    /// nothing is compressed: then any request goes on from it, and loses nothing.
    pub fn continues(&self) -> bool {
        self.continues && (self.quantizes() || self.eviction.is_some())
    }

    /// The same for a prompt whose first `tokens` are a system prompt and definitions of tools, which stay if the settings say
    /// so. What a cache may hold does not change.
    #[must_use]
    pub fn with_system_tokens(self, tokens: usize) -> Self {
        let keeps = self.keep_system && self.eviction.is_some();
        Self { system_tokens: if keeps { tokens } else { 0 }, ..self }
    }

    /// Whether the mean key is subtracted from keys before they are pruned.
    pub fn center_keys(&self) -> bool {
        self.center_keys
    }

    /// Whether tokens that have left the window are stored in another form than the prompt computes them in.
    pub(crate) fn quantizes(&self) -> bool {
        self.key_ratio > 0.0
            || self.value_ratio > 0.0
            || !self.key_precision.is_dense()
            || !self.value_precision.is_dense()
    }

    /// The fewest tokens a budget can hold: sinks, the window and, where tokens are quantized, the block that
    /// fills up behind the window.
    pub fn min_tokens(&self) -> usize {
        self.sinks + self.window + if self.quantizes() { BLOCK } else { 0 }
    }
}

/// What a request asked for, checked: settings, or a budget that picks settings once the prompt is known.
#[derive(Debug, Clone, PartialEq)]
pub enum KvChoice {
    /// Settings spelled out or named.
    Fixed(KvSettings),
    /// The best settings within these bytes that one of the tables has.
    Budget(Budget, Calibrations),
}

impl KvChoice {
    /// Whether it matters where a conversation's system prompt ends: tokens may be dropped, and that is to stay.
    pub fn keeps_system(&self) -> bool {
        match self {
            KvChoice::Fixed(settings) => settings.keep_system && settings.eviction.is_some(),
            KvChoice::Budget(..) => true,
        }
    }
}

impl Default for KvChoice {
    fn default() -> Self {
        KvChoice::Fixed(KvSettings::exact())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{KvChoice, KvSettings, Presets};

    /// The settings that the JSON of a `kv_cache` object asks for.
    pub(crate) fn settings(json: &str) -> KvSettings {
        let options = serde_json::from_str(json).unwrap();
        match Presets::built_in().unwrap().resolve(&options).unwrap() {
            KvChoice::Fixed(settings) => settings,
            KvChoice::Budget(budget, _) => panic!("{budget} is a budget"),
        }
    }
}
