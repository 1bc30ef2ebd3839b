//! What `--help` says of defaults: those of configs/default.toml, which options are laid over.

use std::collections::BTreeMap;

use clap::Command;
use toml::{Table, Value};

use crate::layers::DEFAULTS;

/// The command, with the default of each setting in what is said of its flag.
pub(crate) fn with_defaults(command: Command) -> Command {
    tell(command, &defaults())
}

fn tell(command: Command, defaults: &BTreeMap<String, String>) -> Command {
    let command = command.mut_args(|arg| {
        // Settings have variables; other flags may be called the same.
        let default = arg.get_env().and_then(|_| defaults.get(arg.get_id().as_str()));
        match (default, arg.get_help().map(ToString::to_string)) {
            (Some(default), Some(help)) => arg.help(format!("{help} [default: {default}]")),
            _ => arg,
        }
    });
    command.mut_subcommands(|below| tell(below, defaults))
}

/// The default of each setting that has one, by the id of its flag.
fn defaults() -> BTreeMap<String, String> {
    // A file that does not parse, which tests exclude, is refused where settings are read.
    let table: Table = toml::from_str(DEFAULTS).unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut defaults = BTreeMap::new();
    for (section, values) in table {
        let Value::Table(values) = values else { continue };
        match section.as_str() {
            // One flag for the section; its default is a preset.
            "kv" => defaults.extend(values.get("preset").map(|preset| (section, text(preset)))),
            _ => defaults.extend(values.iter().map(|(key, value)| (key.clone(), text(value)))),
        }
    }
    defaults
}
