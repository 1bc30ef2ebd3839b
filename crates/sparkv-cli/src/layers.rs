//! Sources of settings laid over one another: the one place that knows what beats what.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use clap::ArgMatches;
use clap::parser::ValueSource;
use toml::Table;

use crate::options::Options;

/// Every setting with its default, explained; built into the binary.
pub(crate) const DEFAULTS: &str = include_str!("../../../configs/default.toml");

/// The secret among the settings.
pub(crate) const SECRET: &str = "api_key";

/// The part that is replaced as a whole: settings of a cache taken from two sources would be nobody's choice.
const WHOLE: &str = "kv";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `configs/default.toml`.
    Default,
    /// The file of --config.
    File(PathBuf),
    /// A SPARKV_... variable.
    Environment,
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// The sources, each over the ones before.
#[derive(Debug)]
pub(crate) struct Layers(Vec<(Origin, Table)>);

impl Layers {
    /// Defaults, then `file`, then what `given` holds of variables and then of flags; `matches` tells these
    /// two apart.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has a key or a type that it should not; the message shows
    /// the place.
    pub(crate) fn new(file: Option<PathBuf>, given: &Options, matches: &ArgMatches) -> anyhow::Result<Self> {
        let mut layers = vec![(Origin::Default, table(DEFAULTS).context("built-in defaults")?)];
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let values = table(&text).with_context(|| format!("{} is not valid", path.display()))?;
            layers.push((Origin::File(path), values));
        }
        let given = Table::try_from(given).context("the command line")?;
        let from_variable = |id: &str| matches.value_source(id) == Some(ValueSource::EnvVariable);
        layers.push((Origin::Environment, filter(&given, from_variable)));
        layers.push((Origin::Flag, filter(&given, |id| !from_variable(id))));
        Ok(Self(layers))
    }

    /// The effective value of every setting.
    pub(crate) fn merged(&self) -> Table {
        let mut merged = Table::new();
        for (_, layer) in &self.0 {
            for (section, values) in layer {
                match (merged.get_mut(section).and_then(|below| below.as_table_mut()), values.as_table()) {
                    (Some(below), Some(values)) if section != WHOLE => below.extend(values.clone()),
                    _ => {
                        merged.insert(section.clone(), values.clone());
                    }
                }
            }
        }
        merged
    }

    /// A setting's name and where its effective value comes from, for messages.
    pub(crate) fn setting(&self, section: &str, key: &str) -> String {
        format!("{section}.{key} (from {})", self.origin(section, key))
    }

    /// Where the effective value of a setting comes from.
    pub(crate) fn origin(&self, section: &str, key: &str) -> &Origin {
        let sets = |layer: &Table| match layer.get(section).and_then(|values| values.as_table()) {
            Some(_) if section == WHOLE => true,
            Some(values) => values.contains_key(key),
            None => false,
        };
        self.0.iter().rev().find(|(_, layer)| sets(layer)).map_or(&Origin::Default, |(origin, _)| origin)
    }
}

/// Parses TOML and checks keys and types.
///
/// # Errors
/// If one of them is wrong, with the place; with the line itself, too, unless the file holds secrets.
fn table(text: &str) -> anyhow::Result<Table> {
    let parsed = toml::from_str::<Options>(text).and_then(|_| toml::from_str(text));
    parsed.map_err(|error| match error.span() {
        Some(span) if may_hold_secret(text) => {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
            anyhow::anyhow!("line {line}, column {column}: {}", error.message())
        }
        _ => error.into(),
    })
}

/// Whether a file may hold a secret, however its key is written.
fn may_hold_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["key", "token =", "secret", "password"].iter().any(|word| text.contains(word))
}

/// The settings of `layer` whose flag's id passes. Sections left without any are left out.
fn filter(layer: &Table, passes: impl Fn(&str) -> bool) -> Table {
    let mut kept = Table::new();
    for (section, values) in layer {
        let Some(values) = values.as_table() else { continue };
        if section == WHOLE {
            // Even if it is empty: that asks for a cache without any compression.
            if passes(WHOLE) {
                kept.insert(section.clone(), values.clone().into());
            }
            continue;
        }
        let values: Table = values
            .iter()
            .filter(|(key, _)| passes(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !values.is_empty() {
            kept.insert(section.clone(), values.into());
        }
    }
    kept
}
