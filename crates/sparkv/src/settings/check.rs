//! From what was asked for to settings that hold.

use super::options::{EvictionOptions, KvOptions};
use super::precision::{Allocation, Precision};
use super::{DEFAULT_SINKS, DEFAULT_WINDOW, KvChoice, KvSettings, MAX_WINDOW, SettingsError};
use crate::budget::Calibrations;
use crate::eviction::{Eviction, EvictionPolicy, Keep};

/// The one place where settings are validated. A budget will choose from `calibrations`.
pub(crate) fn check(
    preset: String,
    options: &KvOptions,
    calibrations: &Calibrations,
) -> Result<KvChoice, SettingsError> {
    if let Some(budget) = options.budget {
        if *options != (KvOptions { budget: Some(budget), ..KvOptions::default() }) {
            return Err(SettingsError::new("budget", "a budget picks all other settings; set it alone"));
        }
        return Ok(KvChoice::Budget(budget, calibrations.clone()));
    }
    let pruning = options.pruning.clone().unwrap_or_default();
    let precision = options.precision.unwrap_or_default();
    let mut settings = KvSettings {
        preset,
        eviction: None,
        key_ratio: prune_ratio("pruning.key_ratio", pruning.key_ratio)?,
        value_ratio: prune_ratio("pruning.value_ratio", pruning.value_ratio)?,
        query_statistic: pruning.query_statistic.unwrap_or_default(),
        center_keys: pruning.center_keys.unwrap_or(false),
        key_precision: precision.keys.unwrap_or(Precision::F16),
        value_precision: precision.values.unwrap_or(Precision::F16),
        allocation: options.allocation.unwrap_or(Allocation::of(precision.keys)),
        window: options.window.unwrap_or(DEFAULT_WINDOW),
        sinks: options.sinks.unwrap_or(DEFAULT_SINKS),
        continues: options.continues.unwrap_or(false),
        keep_system: options.eviction.as_ref().and_then(|eviction| eviction.keep_system).unwrap_or(true),
        system_tokens: 0,
    };
    for (precision, ratio) in [(precision.keys, settings.key_ratio), (precision.values, settings.value_ratio)]
    {
        let Some(precision) = precision.filter(|_| ratio > 0.0) else { continue };
        if !matches!(precision, Precision::F32 | Precision::Int8) {
            let reason = format!(
                "{precision} holds rows that are not pruned; pruned rows keep their channels in int8"
            );
            return Err(SettingsError::new("precision", reason));
        }
    }
    if (settings.key_precision == Precision::F32) != (settings.value_precision == Precision::F32) {
        return Err(SettingsError::new("precision", "f32 is for keys and values alike"));
    }
    let shares_bits = settings.key_precision.few_bits().is_some() && settings.key_ratio == 0.0;
    if options.allocation == Some(Allocation::Query) && !shares_bits {
        let reason =
            "there is nothing to share among channels: keys of int6 to int2 have bits that are allotted";
        return Err(SettingsError::new("allocation", reason));
    }
    if settings.window == 0 || settings.window > MAX_WINDOW {
        return Err(SettingsError::new("window", format!("must be between 1 and {MAX_WINDOW}")));
    }
    if settings.sinks > MAX_WINDOW {
        return Err(SettingsError::new("sinks", format!("must be at most {MAX_WINDOW}")));
    }
    settings.eviction = check_eviction(options.eviction.as_ref())?;
    let min_tokens = settings.min_tokens();
    match settings.eviction.map(|eviction| eviction.keep) {
        Some(Keep::Tokens(tokens)) if tokens < min_tokens => Err(SettingsError::new(
            "eviction.max_tokens",
            format!(
                "{tokens} is below {min_tokens}, the tokens that always stay: sinks, window and the block that is \
                 packed next"
            ),
        )),
        _ => Ok(KvChoice::Fixed(settings)),
    }
}

fn prune_ratio(param: &str, ratio: Option<f64>) -> Result<f64, SettingsError> {
    let ratio = ratio.unwrap_or(0.0);
    if (0.0..1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(SettingsError::new(param, format!("must be at least 0 and below 1, got {ratio}")))
    }
}

fn check_eviction(options: Option<&EvictionOptions>) -> Result<Option<Eviction>, SettingsError> {
    let options = options.cloned().unwrap_or_default();
    let bound = match (options.max_tokens, options.keep_ratio) {
        (Some(_), Some(_)) => {
            return Err(SettingsError::new("eviction", "set max_tokens or keep_ratio, not both"));
        }
        (Some(tokens), None) => Some(Keep::Tokens(tokens)),
        // All of the prompt means everything, also for a policy that holds while generating.
        (None, Some(1.0)) => return Ok(None),
        (None, Some(ratio)) if ratio > 0.0 && ratio < 1.0 => Some(Keep::Ratio(ratio)),
        (None, Some(ratio)) => {
            return Err(SettingsError::new(
                "eviction.keep_ratio",
                format!("must be above 0 and at most 1, got {ratio}"),
            ));
        }
        (None, None) => None,
    };
    match (options.policy.filter(|policy| *policy != EvictionPolicy::NONE), bound) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let policies = EvictionPolicy::known();
            Err(SettingsError::new("eviction.policy", format!("a bound needs a policy: {policies}")))
        }
        (Some(_), None) => Err(SettingsError::new("eviction", "this policy needs max_tokens or keep_ratio")),
        (Some(policy), Some(keep)) => Ok(Some(Eviction { policy, keep })),
    }
}
