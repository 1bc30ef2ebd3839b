//! Settings by name.

use std::collections::BTreeMap;

use super::check::check;
use super::options::{KvOptions, merge};
use super::{BUDGET, CUSTOM, EXACT, KvChoice, SettingsError};
use crate::budget::{Budget, Calibrations};

/// Presets built into the library, in TOML; each is explained in place.
const BUILT_IN_PRESETS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/presets.toml"));

/// Named settings: the built-in ones and those of the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Presets {
    options: BTreeMap<String, KvOptions>,
    /// What budgets choose from.
    calibrations: Calibrations,
}

impl Presets {
    /// The presets exact, quality, balanced, compact and aggressive (`configs/presets.toml`).
    ///
    /// # Errors
    /// Never, unless the built-in file is broken, which a test excludes.
    pub fn built_in() -> Result<Self, SettingsError> {
        let options: BTreeMap<String, KvOptions> =
            toml::from_str(BUILT_IN_PRESETS).map_err(|e| SettingsError::new("presets", e.to_string()))?;
        Self { options: BTreeMap::new(), calibrations: Calibrations::built_in()? }.with(options)
    }

    /// Adds `presets`, which replace those of the same name.
    ///
    /// # Errors
    /// If one of them is invalid, names another preset, or redefines `exact`.
    pub fn with(mut self, presets: BTreeMap<String, KvOptions>) -> Result<Self, SettingsError> {
        for (name, options) in presets {
            let param = format!("presets.{name}");
            if name.is_empty() || name.parse::<Budget>().is_ok() {
                return Err(SettingsError::new(
                    &param,
                    "this is no name: it would be read as something else",
                ));
            }
            if name == CUSTOM || name == BUDGET || (name == EXACT && self.options.contains_key(EXACT)) {
                return Err(SettingsError::new(&param, "this name is taken"));
            }
            if options.preset.is_some() {
                return Err(SettingsError::new(&param, "a preset cannot start from another preset"));
            }
            check(name.clone(), &options, &self.calibrations)
                .map_err(|e| SettingsError::new(&format!("{param}.{}", e.param), e.message))?;
            self.options.insert(name, options);
        }
        Ok(self)
    }

    /// Lets budgets choose from a table, in TOML, which `sparkv eval --calibrate` writes.
    ///
    /// # Errors
    /// If it is no such table.
    pub fn with_calibration(mut self, toml: &str) -> Result<Self, SettingsError> {
        self.calibrations = self.calibrations.with(toml)?;
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
            return check(name.to_owned(), base, &self.calibrations);
        }
        if options.preset.is_none() || options.budget.is_some() {
            // Starting from `exact`, which is what remains where nothing is set; a budget stands alone.
            return check(CUSTOM.to_owned(), options, &self.calibrations);
        }
        check(CUSTOM.to_owned(), &merge(base, spelled_out), &self.calibrations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{Eviction, EvictionPolicy, Keep};
    use crate::settings::{KvSettings, Precision, PruningOptions};

    fn resolve(json: &str) -> Result<KvChoice, SettingsError> {
        let options: KvOptions = serde_json::from_str(json).expect(json);
        Presets::built_in()?.resolve(&options)
    }

    fn evicting(policy: &str, keep: Keep) -> Option<Eviction> {
        EvictionPolicy::named(policy).map(|policy| Eviction { policy, keep })
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
    fn there_are_five_presets() {
        let presets = Presets::built_in().unwrap();
        let names: Vec<&str> = presets.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["aggressive", "balanced", "compact", "exact", "quality"]);
    }

    #[test]
    fn single_fields_override_those_of_the_preset() {
        // Rows of few bits cannot be pruned: those of one byte are what is meant. Others stay as they are.
        let settings = fixed(r#"{"preset": "balanced", "pruning": {"key_ratio": 0.75}}"#);
        assert_eq!((settings.key_ratio(), settings.value_ratio()), (0.75, 0.0));
        assert_eq!((settings.key_precision(), settings.preset()), (Precision::Int8, CUSTOM));
        assert_eq!(settings.value_precision(), Precision::Int4);
        let settings = fixed(r#"{"preset": "balanced", "precision": {"values": "int8"}}"#);
        assert_eq!(settings.rows(), ["int5 uniform", "int8"]);
        let settings = fixed(r#"{"preset": "balanced", "pruning": {"key_ratio": 0.0}, "window": 64}"#);
        assert_eq!((settings.key_precision(), settings.window()), (Precision::Int5, 64));
        let both = r#"{"preset": "balanced", "pruning": {"key_ratio": 0.75}, "precision": "int4"}"#;
        assert_eq!(resolve(both).unwrap_err().param, "precision");

        let settings = fixed(r#"{"preset": "aggressive", "eviction": {"max_tokens": 500}}"#);
        assert_eq!(settings.eviction(), evicting("snapkv", Keep::Tokens(500)));
        let settings = fixed(r#"{"preset": "aggressive", "eviction": {"policy": "none"}}"#);
        assert_eq!(settings.eviction(), None);
    }

    #[test]
    fn policies_have_the_names_they_are_known_by() {
        for name in ["streaming", "snapkv", "pyramidkv", "expected_attention"] {
            let settings = fixed(&format!(r#"{{"eviction": {{"policy": "{name}", "keep_ratio": 0.5}}}}"#));
            assert_eq!(settings.eviction(), evicting(name, Keep::Ratio(0.5)));
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
            r#"{"precision": "int7"}"#,
            r#"{"precision": {"key": "int4"}}"#,
            r#"{"allocation": "even"}"#,
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
        assert_eq!((tiny.preset(), tiny.key_precision()), ("tiny", Precision::Int8));
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
