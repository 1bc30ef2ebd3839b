//! The tables a budget chooses from: `configs/calibration`, which explains itself, and one of the operator's.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use crate::eviction::EvictionPolicy;
use crate::settings::{BUDGET, KvChoice, KvOptions, KvSettings, SettingsError, check};
use crate::shape::KvShape;

/// The table for models that none of the others is for comes first.
const BUILT_IN: [&str; 3] = [
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/calibration/default.toml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/calibration/demo.toml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/calibration/smollm2-135m.toml")),
];

/// The tables there are; the last one that is for a model is its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Calibrations(Arc<[Calibration]>);

impl Calibrations {
    /// Those built into the library.
    ///
    /// # Errors
    /// Never, unless a file is broken, which a test excludes.
    pub fn built_in() -> Result<Self, SettingsError> {
        static TABLES: LazyLock<Result<Calibrations, SettingsError>> = LazyLock::new(|| {
            let tables =
                BUILT_IN.iter().map(|toml| Calibration::parse(toml)).collect::<Result<Vec<_>, _>>()?;
            Ok(Calibrations(tables.into()))
        });
        TABLES.clone()
    }

    /// And the table `toml`, which beats those that are for the same model; one that names none is for all.
    ///
    /// # Errors
    /// If it is no such table.
    pub fn with(&self, toml: &str) -> Result<Self, SettingsError> {
        let tables = self.0.iter().cloned().chain([Calibration::parse(toml)?]);
        Ok(Self(tables.collect()))
    }

    /// The table for a model of this shape.
    ///
    /// # Errors
    /// If there is none at all.
    pub(super) fn of(&self, shape: &KvShape) -> Result<&Calibration, SettingsError> {
        let fits = |table: &&Calibration| table.shape.is_none_or(|of| of == TableShape::from(shape));
        let missing = || SettingsError::new("calibration", "there is no table for this model");
        self.0.iter().rev().find(fits).ok_or_else(missing)
    }
}

/// Ways to store tokens, from the most faithful to the cheapest, and the way to drop them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Calibration {
    /// Of the models that it is for; all of them if `None`.
    shape: Option<TableShape>,
    /// The first is the uncompressed f16 cache; evicts nothing, as all of them.
    pub(super) exact: KvSettings,
    /// What follows it, the cheapest last.
    steps: Vec<KvSettings>,
    /// Drops tokens of the prompt.
    pub(super) evict_prompt: EvictionPolicy,
}

/// What tells a model from others, as far as a cache knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableShape {
    layers: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl From<&KvShape> for TableShape {
    fn from(shape: &KvShape) -> Self {
        let attention = &shape.attention;
        Self {
            layers: shape.layers,
            query_heads: attention.query_heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
        }
    }
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What was measured; for people.
    #[serde(default, rename = "model")]
    _model: Option<String>,
    eviction: EvictionPolicy,
    #[serde(default)]
    shape: Option<TableShape>,
    steps: Vec<Step>,
}

/// A way to store tokens, and what was measured of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// A `kv_cache` object without preset, budget and eviction.
    kv: KvOptions,
    /// KL against the full cache, nats a token; for people.
    #[serde(default, rename = "kl")]
    _kl: Option<f64>,
    /// Bytes as a share of dense f16's; for people.
    #[serde(default, rename = "bytes")]
    _bytes: Option<f64>,
}

/// A measured way to store every token of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredStep {
    /// The settings.
    pub kv: KvOptions,
    /// KL against the full cache, nats a token.
    pub kl: f64,
    /// Bytes as a share of dense f16's.
    pub bytes: f64,
}

/// The least share of dense f16's bytes that a step saves against the one before it.
const LEAST_SAVING: f64 = 0.01;

/// The table of a `model` of `shape`, in TOML: of `measured` what nothing else that was measured beats at no more bytes, behind
/// the exact cache.
///
/// # Errors
/// If what was measured makes no table.
pub fn calibration_table(
    model: &str,
    shape: &KvShape,
    measured: &[MeasuredStep],
) -> Result<String, SettingsError> {
    let mut front: Vec<&MeasuredStep> = measured
        .iter()
        .filter(|step| step.bytes < 1.0)
        .filter(|step| {
            let beats = |other: &&MeasuredStep| {
                let better = (other.bytes, other.kl) != (step.bytes, step.kl);
                better && other.bytes <= step.bytes && other.kl <= step.kl
            };
            !measured.iter().any(|other| beats(&other))
        })
        .collect();
    front.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    // A step that saves next to nothing is none.
    let mut last = 1.0;
    front.retain(|step| {
        let saves = last - step.bytes >= LEAST_SAVING;
        last = if saves { step.bytes } else { last };
        saves
    });
    let error = |message: String| SettingsError::new("calibration", message);
    let TableShape { layers, query_heads, kv_heads, head_dim } = shape.into();
    let mut toml = format!(
        "model = {}\neviction = \"{}\"\n\n[shape]\nlayers = {layers}\nquery_heads = {query_heads}\nkv_heads = {kv_heads}\n\
         head_dim = {head_dim}\n\n[[steps]]\nkv = {{ precision = \"f16\" }}\n",
        toml::Value::from(model),
        EvictionPolicy::SNAPKV.name(),
    );
    for MeasuredStep { kv, kl, bytes } in front {
        let kv = toml::Value::try_from(kv).map_err(|e| error(e.to_string()))?;
        toml += &format!("\n[[steps]]\nkv = {kv}\nkl = {kl:.5}\nbytes = {bytes:.3}\n");
    }
    Calibration::parse(&toml)?;
    Ok(toml)
}

impl Calibration {
    /// # Errors
    /// If it is not TOML of this form, a step is no way to store every token, the first one is not the exact
    /// cache, or the policy does not choose among a prompt's tokens.
    fn parse(toml: &str) -> Result<Self, SettingsError> {
        let error = |message: String| SettingsError::new("calibration", message);
        let table: Table = toml::from_str(toml).map_err(|e| error(e.to_string()))?;
        let evict_prompt = table.eviction;
        if !evict_prompt.chooses_in_prompt() {
            return Err(error("eviction must choose among the prompt's tokens".to_owned()));
        }
        let mut steps = Vec::with_capacity(table.steps.len());
        for (number, Step { kv, .. }) in (1..).zip(&table.steps) {
            if kv.preset.is_some() || kv.eviction.is_some() {
                return Err(error(format!("step {number}: preset and eviction are not for a step to say")));
            }
            match check(BUDGET.to_owned(), kv, &Calibrations::default())? {
                KvChoice::Fixed(settings) => steps.push(settings),
                KvChoice::Budget(..) => return Err(error(format!("step {number} is a budget"))),
            }
        }
        let exact = KvSettings { preset: BUDGET.to_owned(), ..KvSettings::exact() };
        if steps.first() != Some(&exact) {
            return Err(error("the first step must be the uncompressed f16 cache".to_owned()));
        }
        steps.remove(0);
        Ok(Self { shape: table.shape, exact, steps, evict_prompt })
    }

    /// All steps, from the most faithful to the cheapest.
    pub(super) fn steps(&self) -> impl Iterator<Item = &KvSettings> {
        std::iter::once(&self.exact).chain(&self.steps)
    }

    /// The last step.
    pub(super) fn cheapest(&self) -> &KvSettings {
        self.steps.last().unwrap_or(&self.exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Precision, PrecisionOptions};
    use crate::shape::AttentionConfig;

    fn shape(head_dim: usize) -> KvShape {
        let attention =
            AttentionConfig { query_heads: 4, kv_heads: 2, head_dim, scale: 0.1, sliding_window: None };
        KvShape { layers: 2, attention }
    }

    /// A step that does not cost less than the one before it would never be chosen.
    #[test]
    fn steps_cost_less_and_less() {
        for table in Calibrations::built_in().unwrap().0.iter() {
            assert!(table.steps().count() > 1);
            for head_dim in [64, 128] {
                let costs: Vec<u64> =
                    table.steps().map(|step| step.cache_bytes(&shape(head_dim), 4000, 0).unwrap()).collect();
                assert!(costs.windows(2).all(|pair| pair[0] > pair[1]), "{costs:?}");
            }
        }
    }

    #[test]
    fn the_table_of_a_model_is_its_own() {
        let built_in = Calibrations::built_in().unwrap();
        assert_eq!(built_in.of(&shape(64)).unwrap().shape, None);
        let attention =
            AttentionConfig { query_heads: 9, kv_heads: 3, head_dim: 64, scale: 0.1, sliding_window: None };
        let smol = KvShape { layers: 30, attention };
        assert_eq!(built_in.of(&smol).unwrap().shape, Some((&smol).into()));
        let exact = "eviction = \"snapkv\"\n[[steps]]\nkv = { precision = \"f16\" }\n";
        let all = built_in.with(exact).unwrap();
        assert_eq!((all.of(&smol).unwrap().shape, all.of(&smol).unwrap().steps().count()), (None, 1));
        assert_eq!(Calibrations::default().of(&smol).unwrap_err().param, "calibration");
    }

    #[test]
    fn what_is_beaten_is_not_in_the_table() {
        let step = |keys, values, kl, bytes| {
            let precision = Some(PrecisionOptions { keys: Some(keys), values: Some(values) });
            MeasuredStep { kv: KvOptions { precision, ..KvOptions::default() }, kl, bytes }
        };
        let measured = [
            step(Precision::Int4, Precision::Int4, 0.006, 0.294),
            step(Precision::Int8, Precision::Int8, 0.0002, 0.533),
            // As many bytes as the first, and worse; more bytes than the second, and worse.
            step(Precision::Int4, Precision::Int5, 0.007, 0.294),
            step(Precision::Int8, Precision::Int8, 0.001, 0.54),
            // Hardly less, and far worse.
            step(Precision::Int4, Precision::Int3, 0.02, 0.293),
            step(Precision::F16, Precision::F16, 0.0, 1.0),
        ];
        let toml = calibration_table("some model", &shape(64), &measured).unwrap();
        let table = Calibration::parse(&toml).unwrap();
        let kept: Vec<_> = table.steps().map(KvSettings::rows).collect();
        let rows = |keys: &str, values: &str| [keys.to_owned(), values.to_owned()];
        assert_eq!(kept, [rows("f16", "f16"), rows("int8", "int8"), rows("int4 query", "int4")], "{toml}");
        assert_eq!(table.shape, Some((&shape(64)).into()));
        assert!(toml.contains("kv = { precision = \"int4\" }\nkl = 0.00600\nbytes = 0.294"), "{toml}");
    }

    #[test]
    fn tables_that_say_what_they_may_not_are_refused() {
        let exact = "[[steps]]\nkv = { precision = \"f16\" }\n";
        Calibration::parse(&format!("eviction = \"pyramidkv\"\n{exact}")).unwrap();
        let step = |kv: &str| format!("{exact}[[steps]]\nkv = {{ {kv} }}");
        for (eviction, steps, reason) in [
            ("streaming", exact.to_owned(), "eviction must choose"),
            ("lru", exact.to_owned(), "unknown variant"),
            ("snapkv", "[[steps]]\nkv = { precision = \"int8\" }\n".to_owned(), "first step"),
            ("snapkv", "steps = []".to_owned(), "first step"),
            ("snapkv", step("budget = \"25%\""), "step 2 is a budget"),
            ("snapkv", step("preset = \"quality\""), "step 2"),
            ("snapkv", step("pruning = { key_ratio = 1.0 }"), "below 1"),
            ("snapkv", step("ratio = 0.5"), "unknown field"),
        ] {
            let error = Calibration::parse(&format!("eviction = \"{eviction}\"\n{steps}")).unwrap_err();
            assert!(error.to_string().contains(reason), "{steps}: {error}");
        }
    }
}
