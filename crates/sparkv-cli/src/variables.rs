//! SPARKV_... variables that nothing reads: they are named, lest a mistyped one goes unnoticed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use clap::Command;
use clap::error::{ContextKind, ContextValue};

/// What our variables begin with.
const PREFIX: &str = "SPARKV_";

/// Warnings that nobody has heard yet.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Looks for variables that no subcommand of `command` knows. [`warn`] tells of them, once there is a place for it.
pub(crate) fn look(command: &Command) {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    // The name alone: the value may be a secret.
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = set.filter(|name| name.starts_with(PREFIX) && !known.contains(name));
    *WARNINGS.lock().unwrap_or_else(PoisonError::into_inner) =
        unknown.map(|name| warning(&name, &known)).collect();
}

/// Tells `say` what was found, the first time it is called.
pub(crate) fn warn(say: impl FnMut(String)) {
    std::mem::take(&mut *WARNINGS.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().for_each(say);
}

/// The variable whose value clap refuses as that of a flag that nobody gave.
pub(crate) fn behind(command: &Command, error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = flag.split([' ', '=', '[']).next()?.strip_prefix("--")?;
    let is_given = std::env::args()
        .any(|arg| arg.split('=').next().and_then(|arg| arg.strip_prefix("--")) == Some(flag));
    let variable = variable_of(command, flag).filter(|_| !is_given)?;
    std::env::var_os(&variable).map(|_| variable)
}

fn variable_of(command: &Command, flag: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    let own = own.and_then(|arg| arg.get_env()?.to_str().map(str::to_owned));
    own.or_else(|| command.get_subcommands().find_map(|below| variable_of(below, flag)))
}

/// The variables of a command and of all below it.
fn collect(command: &Command, known: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    known.extend(variables.map(str::to_owned));
    command.get_subcommands().for_each(|below| collect(below, known));
}

fn warning(name: &str, known: &BTreeSet<String>) -> String {
    let distance = |other: &&String| strsim::damerau_levenshtein(name, other);
    // Further than a third of what follows the prefix is another word.
    let near = |other: &&String| 3 * distance(other) <= name.len() - PREFIX.len();
    match known.iter().filter(near).min_by_key(distance) {
        Some(meant) => format!("{name} is not a variable of sparkv; did you mean {meant}?"),
        None => format!("{name} is not a variable of sparkv"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_if_it_is_near() {
        let known = ["SPARKV_PORT", "SPARKV_HOST", "SPARKV_KV", "SPARKV_API_KEY", "SPARKV_API_KEY_FILE"];
        let known = known.map(str::to_owned).into();
        let cases = [
            ("SPARKV_PROT", Some("SPARKV_PORT")),
            ("SPARKV_API_KEYS", Some("SPARKV_API_KEY")),
            ("SPARKV_APIKEY_FILE", Some("SPARKV_API_KEY_FILE")),
            ("SPARKV_port", None),
            ("SPARKV_SHARED", None),
            ("SPARKV_", None),
        ];
        for (name, meant) in cases {
            let expected = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            assert_eq!(warning(name, &known), format!("{name} is not a variable of sparkv{expected}"));
        }
    }
}
