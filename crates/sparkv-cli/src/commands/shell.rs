//! `sparkv completions` and `sparkv man`: what the command line is, for shells and for `man`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

/// Which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsOptions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Where manual pages go.
#[derive(Debug, Args)]
pub(crate) struct ManOptions {
    /// Folder to write a page for each subcommand to, as sparkv-serve.1; left out: the page of sparkv is printed
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints the completions for a shell.
///
/// # Errors
/// If nobody reads them.
pub(crate) fn completions(options: &CompletionsOptions, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// Prints the manual page, or writes all of them to a folder.
///
/// # Errors
/// If they cannot be written.
pub(crate) fn man(options: &ManOptions, command: Command) -> anyhow::Result<()> {
    let Some(folder) = &options.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(std::io::stdout().write_all(&page)?);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(writeln!(std::io::stdout(), "the manual pages are in {}", folder.display())?)
}
