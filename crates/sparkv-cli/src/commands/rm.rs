//! `sparkv rm`.

use std::io::{BufRead, IsTerminal, Write};

use bytesize::ByteSize;
use clap::Args;
use sparkv_models::{HubName, HubOptions, Removal};

/// What is removed.
#[derive(Debug, Args)]
pub(crate) struct RmOptions {
    /// Name of the model, as `sparkv list` shows it; without a tag and a revision all there is of it
    #[arg(value_name = "ORG/NAME[:TAG][@REVISION]")]
    name: HubName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Removes a model from the hub's cache, after asking.
///
/// # Errors
/// If it is not there, cannot be removed, or nobody can be asked.
pub(crate) fn rm(options: &RmOptions) -> anyhow::Result<()> {
    let name = &options.name;
    let removal = Removal::plan(name, &HubOptions::default())?;
    let size = ByteSize::b(removal.bytes);
    if !options.yes && !confirmed(&format!("remove {name} ({size}) from {}?", removal.folder().display()))? {
        return Ok(writeln!(std::io::stdout(), "nothing was removed")?);
    }
    removal.run()?;
    Ok(writeln!(std::io::stdout(), "removed {name}: {size} freed")?)
}

/// Whether whoever sits at the terminal agrees.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    anyhow::ensure!(
        stdin.is_terminal(),
        "nobody can be asked without a terminal; --yes removes without asking"
    );
    let mut out = std::io::stderr();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
