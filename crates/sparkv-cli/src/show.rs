//! `sparkv config show`: the effective settings as TOML, each with its origin.

use std::fmt::Write;

use sparkv::Presets;
use toml::{Table, Value};

use crate::layers::{Layers, SECRET};

/// Column at which origins begin, where values are not longer.
const ORIGIN_COLUMN: usize = 40;

/// The effective settings as a file that could be given to --config; secrets are left out.
///
/// # Errors
/// If a preset cannot be written as TOML.
pub(crate) fn show(layers: &Layers) -> anyhow::Result<String> {
    let mut text = String::new();
    for (section, values) in &layers.merged() {
        let Some(values) = values.as_table() else { continue };
        writeln!(text, "[{section}]")?;
        if section == "presets" {
            write_built_in(&mut text, values)?;
        }
        for (key, value) in values {
            let setting = match key.as_str() {
                SECRET => format!("# {SECRET} is set"),
                key => format!("{} = {value}", quoted(key)),
            };
            writeln!(text, "{setting:ORIGIN_COLUMN$}  # {}", layers.origin(section, key))?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

/// The built-in presets that `replaced` does not replace, as comments: they need not be in a file.
fn write_built_in(text: &mut String, replaced: &Table) -> anyhow::Result<()> {
    for (name, options) in Presets::built_in()?.iter().filter(|(name, _)| !replaced.contains_key(*name)) {
        let setting = format!("# {name} = {}", Value::try_from(options)?);
        writeln!(text, "{setting:ORIGIN_COLUMN$}  # built in")?;
    }
    Ok(())
}

/// A key as TOML spells it.
fn quoted(key: &str) -> String {
    let bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare && !key.is_empty() { key.to_owned() } else { Value::from(key).to_string() }
}
