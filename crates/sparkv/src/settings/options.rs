//! The wire form of settings: what a request body, the configuration file and `--kv` may say.

use serde::{Deserialize, Serialize};

use super::precision::{Allocation, Precision, PrecisionOptions};
use crate::budget::Budget;
use crate::eviction::EvictionPolicy;

/// How the query energy of a channel is combined over the query heads of one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryStatistic {
    /// Root of the sum of squares over group and window: heads cannot cancel.
    #[default]
    Rms,
    /// L2 norm over the window of the group's mean query, as in the authors' code.
    Mean,
}

/// Wire form of `kv_cache.eviction`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object like {\"policy\": \"snapkv\", \"max_tokens\": 1024}")]
pub struct EvictionOptions {
    /// Which tokens stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<EvictionPolicy>,
    /// Tokens kept, of the prompt or (streaming) at any time, sinks and window included; on average over the
    /// layers (pyramidkv) or in each. Where tokens are pruned or quantized, streaming drops a block at a time, so
    /// it holds up to 31 fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Tokens kept as a share of the prompt, in (0, 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ratio: Option<f64>,
    /// Whether the system prompt and the definitions of tools, with which a conversation begins, always stay, as far as the
    /// bound has room for them beside the window; true, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_system: Option<bool>,
}

/// Wire form of `kv_cache.pruning`: the share of channels pruned from every token's row, in [0, 1).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object like {\"key_ratio\": 0.5, \"value_ratio\": 0.5}")]
pub struct PruningOptions {
    /// Share of key channels pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ratio: Option<f64>,
    /// Share of value channels pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ratio: Option<f64>,
    /// How query energy is combined over a group of query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_statistic: Option<QueryStatistic>,
    /// Whether the mean key of the prompt is subtracted from keys before they are pruned; not in the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center_keys: Option<bool>,
}

/// Wire form of the `kv_cache` object. Fields that are set override those of the named preset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object like {\"preset\": \"balanced\"}")]
pub struct KvOptions {
    /// A preset to start from; `exact` if nothing is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// What the cache may cost: a share of the dense f16 bytes (`"25%"`) or bytes (`67108864`, `"64MiB"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Which tokens stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<EvictionOptions>,
    /// Which channels stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningOptions>,
    /// How values are stored. Left out: f16, and int8 for the channels that pruned rows keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionOptions>,
    /// How keys of fewer than 8 bits share them among channels. If nothing is said, `query` up to 5 bits, `uniform` with 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Tokens of the observation window, and of the recent tail that stays dense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// First tokens that are never evicted or pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<usize>,
    /// Whether the next turn of the conversation goes on from this compressed cache, which is kept for it, rather
    /// than compress the whole conversation anew: sooner, but what was lost for this turn's question stays lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<bool>,
}

/// `over` where it is set, `base` elsewhere, field by field. Merging is by leaf, so a request can change one
/// ratio of a preset.
pub(crate) fn merge(base: &KvOptions, over: KvOptions) -> KvOptions {
    let eviction = match (base.eviction.clone(), over.eviction) {
        // Another policy, or another bound, replaces the bound of the preset.
        (Some(base), Some(over)) => {
            let same_policy = over.policy.is_none() || over.policy == base.policy;
            let bounded = over.max_tokens.is_some() || over.keep_ratio.is_some();
            let inherited = if same_policy && !bounded { base.clone() } else { EvictionOptions::default() };
            Some(EvictionOptions {
                policy: over.policy.or(base.policy),
                max_tokens: over.max_tokens.or(inherited.max_tokens),
                keep_ratio: over.keep_ratio.or(inherited.keep_ratio),
                keep_system: over.keep_system.or(base.keep_system),
            })
        }
        (base, over) => over.or(base),
    };
    let pruning = match (base.pruning.clone(), over.pruning) {
        (Some(base), Some(over)) => Some(PruningOptions {
            key_ratio: over.key_ratio.or(base.key_ratio),
            value_ratio: over.value_ratio.or(base.value_ratio),
            query_statistic: over.query_statistic.or(base.query_statistic),
            center_keys: over.center_keys.or(base.center_keys),
        }),
        (base, over) => over.or(base),
    };
    // Who prunes a preset of whole rows asks for rows that can be pruned.
    let pruned = pruning.clone().unwrap_or_default();
    let inherited = |precision: Option<Precision>, ratio: Option<f64>| match precision {
        Some(precision) if precision != Precision::F32 && ratio.is_some_and(|ratio| ratio > 0.0) => {
            Some(Precision::Int8)
        }
        precision => precision,
    };
    let (base_precision, over_precision) =
        (base.precision.unwrap_or_default(), over.precision.unwrap_or_default());
    let precision = PrecisionOptions {
        keys: over_precision.keys.or(inherited(base_precision.keys, pruned.key_ratio)),
        values: over_precision.values.or(inherited(base_precision.values, pruned.value_ratio)),
    };
    // What the preset says of keys of few bits does not hold for others.
    let few_bits = precision.keys.is_some_and(|keys| keys.few_bits().is_some());
    KvOptions {
        preset: None,
        budget: over.budget.or(base.budget),
        eviction,
        pruning,
        precision: Some(precision).filter(|precision| *precision != PrecisionOptions::default()),
        allocation: over.allocation.or(base.allocation.filter(|_| few_bits)),
        window: over.window.or(base.window),
        sinks: over.sinks.or(base.sinks),
        continues: over.continues.or(base.continues),
    }
}
