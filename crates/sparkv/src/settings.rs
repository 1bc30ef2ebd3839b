//! What a request may ask of its KV cache, and the checked form of it.
//!
//! [`KvOptions`] is the wire form: the `kv_cache` object of a request body, the tables of the TOML file and
//! the argument of `--kv` all parse into it. [`Presets::resolve`] turns it into a [`KvChoice`], the only way
//! to obtain [`KvSettings`]: settings that exist are valid.

use std::collections::BTreeMap;

use sparkv_kernels::BLOCK;

use crate::budget::Budget;
use crate::eviction::NAMES;
pub use crate::eviction::{Eviction, EvictionPolicy, Keep};
use crate::options::merge;
pub use crate::options::{EvictionOptions, KvOptions, Precision, PruningOptions, QueryStatistic};

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

/// Presets built into the library, in TOML; each is explained in place.
const BUILT_IN_PRESETS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/presets.toml"));

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
    pub(crate) eviction: Eviction,
    pub(crate) key_ratio: f64,
    pub(crate) value_ratio: f64,
    pub(crate) query_statistic: QueryStatistic,
    pub(crate) center_keys: bool,
    pub(crate) precision: Precision,
    pub(crate) window: usize,
    pub(crate) sinks: usize,
    pub(crate) continues: bool,
}

impl KvSettings {
    /// The uncompressed f16 cache.
    pub fn exact() -> Self {
        Self {
            preset: EXACT.to_owned(),
            eviction: Eviction::None,
            key_ratio: 0.0,
            value_ratio: 0.0,
            query_statistic: QueryStatistic::default(),
            center_keys: false,
            precision: Precision::F16,
            window: DEFAULT_WINDOW,
            sinks: DEFAULT_SINKS,
            continues: false,
        }
    }

    /// Name of the preset these are, or `custom`.
    pub fn preset(&self) -> &str {
        &self.preset
    }

    /// Which tokens stay.
    pub fn eviction(&self) -> Eviction {
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

    /// How rows that are not pruned are stored. Of those that are, kept channels are int8, or f32 where this is.
    pub fn precision(&self) -> Precision {
        self.precision
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
        self.continues && (self.seals() || self.eviction != Eviction::None)
    }

    /// Whether the mean key is subtracted from keys before they are pruned.
    pub fn center_keys(&self) -> bool {
        self.center_keys
    }

    /// Whether tokens that have left the window are stored in another form than the prompt computes them in.
    pub(crate) fn seals(&self) -> bool {
        self.key_ratio > 0.0
            || self.value_ratio > 0.0
            || matches!(self.precision, Precision::Int8 | Precision::Int4)
    }

    /// The fewest tokens a budget can hold: sinks, the window and, where tokens are sealed, the block that
    /// fills up behind the window.
    pub fn min_tokens(&self) -> usize {
        self.sinks + self.window + if self.seals() { BLOCK } else { 0 }
    }
}

/// What a request asked for, checked: settings, or a budget that picks settings once the prompt is known.
#[derive(Debug, Clone, PartialEq)]
pub enum KvChoice {
    /// Settings spelled out or named.
    Fixed(KvSettings),
    /// The best settings within these bytes.
    Budget(Budget),
}

impl Default for KvChoice {
    fn default() -> Self {
        KvChoice::Fixed(KvSettings::exact())
    }
}

/// Named settings: the built-in ones and those of the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Presets {
    options: BTreeMap<String, KvOptions>,
}

impl Presets {
    /// The presets exact, quality, balanced and aggressive (`configs/presets.toml`).
    ///
    /// # Errors
    /// Never, unless the built-in file is broken, which a test excludes.
    pub fn built_in() -> Result<Self, SettingsError> {
        let options: BTreeMap<String, KvOptions> =
            toml::from_str(BUILT_IN_PRESETS).map_err(|e| SettingsError::new("presets", e.to_string()))?;
        Self { options: BTreeMap::new() }.with(options)
    }

    /// Adds `presets`, which replace those of the same name.
    ///
    /// # Errors
    /// If one of them is invalid, names another preset, or redefines `exact`.
    pub fn with(mut self, presets: BTreeMap<String, KvOptions>) -> Result<Self, SettingsError> {
        for (name, options) in presets {
            let param = format!("presets.{name}");
            if name == CUSTOM || (name == EXACT && self.options.contains_key(EXACT)) {
                return Err(SettingsError::new(&param, "this name is taken"));
            }
            if options.preset.is_some() {
                return Err(SettingsError::new(&param, "a preset cannot start from another preset"));
            }
            check(name.clone(), &options)
                .map_err(|e| SettingsError::new(&format!("{param}.{}", e.param), e.message))?;
            self.options.insert(name, options);
        }
        Ok(self)
    }

    /// Names and options of all presets, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KvOptions)> {
        self.options.iter().map(|(name, options)| (name.as_str(), options))
    }

    /// Checks `options` and fills them up from their preset.
    ///
    /// # Errors
    /// An unknown preset, a ratio outside its range, a budget below the window, or fields that exclude one
    /// another; `param` names the field.
    pub fn resolve(&self, options: &KvOptions) -> Result<KvChoice, SettingsError> {
        let name = options.preset.as_deref().unwrap_or(EXACT);
        let base = self.options.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.options.keys().map(String::as_str).collect();
            SettingsError::new("preset", format!("no preset `{name}`; there are {}", known.join(", ")))
        })?;
        let spelled_out = KvOptions { preset: None, ..options.clone() };
        if spelled_out == KvOptions::default() {
            return check(name.to_owned(), base);
        }
        if options.preset.is_none() || options.budget.is_some() {
            // Starting from `exact`, which is what remains where nothing is set; a budget stands alone.
            return check(CUSTOM.to_owned(), options);
        }
        check(CUSTOM.to_owned(), &merge(base, spelled_out))
    }
}

/// The one place where settings are validated.
pub(crate) fn check(preset: String, options: &KvOptions) -> Result<KvChoice, SettingsError> {
    if let Some(budget) = options.budget {
        if *options != (KvOptions { budget: Some(budget), ..KvOptions::default() }) {
            return Err(SettingsError::new("budget", "a budget picks all other settings; set it alone"));
        }
        return Ok(KvChoice::Budget(budget));
    }
    let pruning = options.pruning.clone().unwrap_or_default();
    let mut settings = KvSettings {
        preset,
        eviction: Eviction::None,
        key_ratio: prune_ratio("pruning.key_ratio", pruning.key_ratio)?,
        value_ratio: prune_ratio("pruning.value_ratio", pruning.value_ratio)?,
        query_statistic: pruning.query_statistic.unwrap_or_default(),
        center_keys: pruning.center_keys.unwrap_or(false),
        precision: options.precision.unwrap_or(Precision::F16),
        window: options.window.unwrap_or(DEFAULT_WINDOW),
        sinks: options.sinks.unwrap_or(DEFAULT_SINKS),
        continues: options.continues.unwrap_or(false),
    };
    let prunes = settings.key_ratio > 0.0 || settings.value_ratio > 0.0;
    if let Some(Precision::F16 | Precision::Int4) = options.precision
        && prunes
    {
        let reason = "f16 and int4 hold rows that are not pruned; pruned rows keep their channels in int8";
        return Err(SettingsError::new("precision", reason));
    }
    if settings.window == 0 || settings.window > MAX_WINDOW {
        return Err(SettingsError::new("window", format!("must be between 1 and {MAX_WINDOW}")));
    }
    if settings.sinks > MAX_WINDOW {
        return Err(SettingsError::new("sinks", format!("must be at most {MAX_WINDOW}")));
    }
    settings.eviction = check_eviction(options.eviction.as_ref())?;
    let min_tokens = settings.min_tokens();
    match settings.eviction.keep() {
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

fn check_eviction(options: Option<&EvictionOptions>) -> Result<Eviction, SettingsError> {
    let options = options.cloned().unwrap_or_default();
    let bound = match (options.max_tokens, options.keep_ratio) {
        (Some(_), Some(_)) => {
            return Err(SettingsError::new("eviction", "set max_tokens or keep_ratio, not both"));
        }
        (Some(tokens), None) => Some(Keep::Tokens(tokens)),
        // All of the prompt means everything, also for a policy that holds while generating.
        (None, Some(1.0)) => return Ok(Eviction::None),
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
        (None, None) => Ok(Eviction::None),
        (None, Some(_)) => {
            let policies = NAMES[1..].join(", ");
            Err(SettingsError::new("eviction.policy", format!("a bound needs a policy: {policies}")))
        }
        (Some(_), None) => Err(SettingsError::new("eviction", "this policy needs max_tokens or keep_ratio")),
        (Some(policy), Some(keep)) => Ok(Eviction::By(policy, keep)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(json: &str) -> Result<KvChoice, SettingsError> {
        let options: KvOptions = serde_json::from_str(json).expect(json);
        Presets::built_in()?.resolve(&options)
    }

    fn fixed(json: &str) -> KvSettings {
        match resolve(json) {
            Ok(KvChoice::Fixed(settings)) => settings,
            other => panic!("{json} gave {other:?}"),
        }
    }

    #[test]
    fn nothing_set_is_the_exact_cache() {
        assert_eq!(fixed("{}"), KvSettings::exact());
        assert_eq!(fixed(r#"{"preset": "exact"}"#), KvSettings::exact());
        assert_eq!(KvChoice::default(), KvChoice::Fixed(KvSettings::exact()));
    }

    #[test]
    fn there_are_four_presets() {
        let presets = Presets::built_in().unwrap();
        let names: Vec<&str> = presets.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["aggressive", "balanced", "exact", "quality"]);
    }

    #[test]
    fn single_fields_override_those_of_the_preset() {
        let settings = fixed(r#"{"preset": "balanced", "pruning": {"key_ratio": 0.75}}"#);
        assert_eq!((settings.key_ratio(), settings.value_ratio()), (0.75, 0.5));
        assert_eq!((settings.precision(), settings.preset()), (Precision::Int8, CUSTOM));

        let settings = fixed(r#"{"preset": "aggressive", "eviction": {"max_tokens": 500}}"#);
        assert_eq!(
            settings.eviction(),
            Eviction::By(EvictionPolicy::named("snapkv").unwrap(), Keep::Tokens(500))
        );
        let settings = fixed(r#"{"preset": "aggressive", "eviction": {"policy": "none"}}"#);
        assert_eq!(settings.eviction(), Eviction::None);
    }

    #[test]
    fn policies_have_the_names_they_are_known_by() {
        assert_eq!(NAMES, ["none", "streaming", "snapkv", "pyramidkv", "expected_attention"]);
        for name in &NAMES[1..] {
            let policy = EvictionPolicy::named(name).unwrap();
            let settings = fixed(&format!(r#"{{"eviction": {{"policy": "{name}", "keep_ratio": 0.5}}}}"#));
            assert_eq!(settings.eviction(), Eviction::By(policy, Keep::Ratio(0.5)));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases = [
            (r#"{"preset": "best"}"#, "preset"),
            (r#"{"pruning": {"key_ratio": 1.0}}"#, "pruning.key_ratio"),
            (r#"{"pruning": {"value_ratio": -0.1}}"#, "pruning.value_ratio"),
            (r#"{"pruning": {"value_ratio": 0.5}, "precision": "int4"}"#, "precision"),
            (r#"{"pruning": {"key_ratio": 0.5}, "precision": "f16"}"#, "precision"),
            (r#"{"window": 0}"#, "window"),
            (r#"{"window": 100000}"#, "window"),
            (r#"{"sinks": 100000}"#, "sinks"),
            (r#"{"eviction": {"policy": "snapkv"}}"#, "eviction"),
            (r#"{"eviction": {"max_tokens": 1000}}"#, "eviction.policy"),
            (r#"{"eviction": {"policy": "snapkv", "max_tokens": 35}}"#, "eviction.max_tokens"),
            (r#"{"eviction": {"policy": "streaming", "max_tokens": 35}}"#, "eviction.max_tokens"),
            (
                r#"{"eviction": {"policy": "snapkv", "max_tokens": 67}, "precision": "int8"}"#,
                "eviction.max_tokens",
            ),
            (r#"{"eviction": {"policy": "pyramidkv", "max_tokens": 35}}"#, "eviction.max_tokens"),
            (r#"{"eviction": {"policy": "expected_attention", "max_tokens": 35}}"#, "eviction.max_tokens"),
            (r#"{"eviction": {"policy": "expected_attention"}}"#, "eviction"),
            (r#"{"eviction": {"policy": "snapkv", "keep_ratio": 0.0}}"#, "eviction.keep_ratio"),
            (r#"{"eviction": {"policy": "snapkv", "keep_ratio": 1.5}}"#, "eviction.keep_ratio"),
            (r#"{"eviction": {"policy": "snapkv", "keep_ratio": 0.5, "max_tokens": 900}}"#, "eviction"),
            (r#"{"budget": "25%", "window": 64}"#, "budget"),
            (r#"{"budget": "25%", "preset": "exact"}"#, "budget"),
        ];
        for (json, param) in cases {
            let error = resolve(json).expect_err(json);
            assert_eq!(error.param, param, "{json}: {error}");
        }
        fixed(r#"{"eviction": {"policy": "snapkv", "max_tokens": 36}}"#);
        fixed(r#"{"eviction": {"policy": "streaming", "max_tokens": 36}}"#);
        fixed(r#"{"pruning": {"key_ratio": 0.0}, "precision": "f16"}"#);
        fixed(r#"{"preset": "exact", "pruning": {"key_ratio": 0.5}}"#);
    }

    #[test]
    fn what_is_no_setting_does_not_parse() {
        for json in [
            r#"{"windows": 32}"#,
            r#"{"window": -1}"#,
            r#"{"precision": "int3"}"#,
            r#"{"eviction": {"policy": "lru"}}"#,
            r#"{"eviction": {"policy": "snapkv", "tokens": 5}}"#,
            r#"{"pruning": {"ratio": 0.5}}"#,
            r#"{"pruning": {"key_ratio": 0.5, "levels": 2}}"#,
            r#"{"pruning": {"key_ratio": "half"}}"#,
        ] {
            assert!(serde_json::from_str::<KvOptions>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn ratios_that_are_no_numbers_are_refused() {
        let pruning = PruningOptions { key_ratio: Some(f64::NAN), ..PruningOptions::default() };
        let options = KvOptions { pruning: Some(pruning), ..KvOptions::default() };
        assert!(Presets::built_in().unwrap().resolve(&options).is_err());
    }

    #[test]
    fn a_file_adds_presets_and_replaces_all_but_exact() {
        let with = |toml: &str| Presets::built_in().unwrap().with(toml::from_str(toml).unwrap());
        let presets = with("[tiny]\nprecision = \"int8\"\n[balanced]\nwindow = 64").unwrap();
        let named = |name: &str| KvOptions { preset: Some(name.to_owned()), ..KvOptions::default() };
        let Ok(KvChoice::Fixed(tiny)) = presets.resolve(&named("tiny")) else { panic!("tiny") };
        assert_eq!((tiny.preset(), tiny.precision()), ("tiny", Precision::Int8));
        let Ok(KvChoice::Fixed(balanced)) = presets.resolve(&named("balanced")) else { panic!("balanced") };
        assert_eq!((balanced.window(), balanced.key_ratio()), (64, 0.0));

        assert_eq!(with("[exact]\nprecision = \"int8\"").unwrap_err().param, "presets.exact");
        assert_eq!(with("[custom]\nwindow = 64").unwrap_err().param, "presets.custom");
        assert_eq!(with("[a]\npreset = \"exact\"").unwrap_err().param, "presets.a");
        assert_eq!(
            with("[a]\npruning = { key_ratio = 2.0 }").unwrap_err().param,
            "presets.a.pruning.key_ratio"
        );
    }
}
