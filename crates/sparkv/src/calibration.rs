//! The table a budget chooses from: `configs/calibration.toml`, which explains itself.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::settings::{CUSTOM, EvictionPolicy, KvChoice, KvOptions, KvSettings, SettingsError, check};

const BUILT_IN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/calibration.toml"));

/// Ways to store tokens, from the most faithful to the cheapest, and the way to drop them.
#[derive(Debug, Clone)]
pub(crate) struct Calibration {
    /// The first is the uncompressed f16 cache; evicts nothing, as all of them.
    pub(crate) exact: KvSettings,
    /// What follows it, the cheapest last.
    steps: Vec<KvSettings>,
    /// Drops tokens of the prompt.
    pub(crate) evict_prompt: EvictionPolicy,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    eviction: EvictionPolicy,
    steps: Vec<KvOptions>,
}

impl Calibration {
    /// The built-in table.
    ///
    /// # Errors
    /// Never, unless the file is broken, which a test excludes.
    pub(crate) fn built_in() -> Result<&'static Self, SettingsError> {
        static TABLE: LazyLock<Result<Calibration, SettingsError>> =
            LazyLock::new(|| Calibration::parse(BUILT_IN));
        TABLE.as_ref().map_err(Clone::clone)
    }

    /// # Errors
    /// If it is not TOML of this form, a step is no way to store every token, the first one is not the exact
    /// cache, or the policy does not choose among a prompt's tokens.
    fn parse(toml: &str) -> Result<Self, SettingsError> {
        let error = |message: String| SettingsError::new("calibration", message);
        let table: Table = toml::from_str(toml).map_err(|e| error(e.to_string()))?;
        if table.eviction.score().is_none() {
            return Err(error("eviction must choose among the prompt's tokens".to_owned()));
        }
        let mut steps = Vec::with_capacity(table.steps.len());
        for (number, step) in (1..).zip(&table.steps) {
            if step.preset.is_some() || step.eviction.is_some() {
                return Err(error(format!("step {number}: preset and eviction are not for a step to say")));
            }
            match check(CUSTOM.to_owned(), step)? {
                KvChoice::Fixed(settings) => steps.push(settings),
                KvChoice::Budget(_) => return Err(error(format!("step {number} is a budget"))),
            }
        }
        let exact = KvSettings { preset: CUSTOM.to_owned(), ..KvSettings::exact() };
        if steps.first() != Some(&exact) {
            return Err(error("the first step must be the uncompressed f16 cache".to_owned()));
        }
        steps.remove(0);
        Ok(Self { exact, steps, evict_prompt: table.eviction })
    }

    /// All steps, from the most faithful to the cheapest.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &KvSettings> {
        std::iter::once(&self.exact).chain(&self.steps)
    }

    /// The last step.
    pub(crate) fn cheapest(&self) -> &KvSettings {
        self.steps.last().unwrap_or(&self.exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionConfig;
    use crate::plan::KvShape;

    /// A step that does not cost less than the one before it would never be chosen.
    #[test]
    fn steps_cost_less_and_less() {
        let table = Calibration::built_in().unwrap();
        assert!(table.steps().count() > 1);
        for head_dim in [64, 128] {
            let attention =
                AttentionConfig { query_heads: 4, kv_heads: 2, head_dim, scale: 0.1, sliding_window: None };
            let shape = KvShape { layers: 2, attention };
            let costs: Vec<u64> =
                table.steps().map(|step| step.cache_bytes(&shape, 4000, 0).unwrap()).collect();
            assert!(costs.windows(2).all(|pair| pair[0] > pair[1]), "{costs:?}");
        }
    }

    #[test]
    fn tables_that_say_what_they_may_not_are_refused() {
        let exact = "[[steps]]\nprecision = \"f16\"\n";
        Calibration::parse(&format!("eviction = \"pyramidkv\"\n{exact}")).unwrap();
        for (eviction, steps, reason) in [
            ("streaming", exact.to_owned(), "eviction must choose"),
            ("lru", exact.to_owned(), "unknown variant"),
            ("snapkv", "[[steps]]\nprecision = \"int8\"\n".to_owned(), "first step"),
            ("snapkv", "steps = []".to_owned(), "first step"),
            ("snapkv", format!("{exact}[[steps]]\nbudget = \"25%\""), "step 2 is a budget"),
            ("snapkv", format!("{exact}[[steps]]\npreset = \"quality\""), "step 2"),
            ("snapkv", format!("{exact}[[steps]]\npruning = {{ key_ratio = 1.0 }}"), "below 1"),
            ("snapkv", format!("{exact}[[steps]]\nratio = 0.5"), "unknown field"),
        ] {
            let error = Calibration::parse(&format!("eviction = \"{eviction}\"\n{steps}")).unwrap_err();
            assert!(error.to_string().contains(reason), "{steps}: {error}");
        }
    }
}
