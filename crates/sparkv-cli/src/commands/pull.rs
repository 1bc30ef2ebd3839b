//! `sparkv pull`.

use std::io::Write;

use clap::Args;
use sparkv_models::{HubFiles, HubName, hub};

use crate::loading;
use crate::progress::Bars;
use crate::settings::Settings;

/// What is downloaded.
#[derive(Debug, Args)]
pub(crate) struct PullOptions {
    /// Name of the model; the tag chooses among GGUF files, as Q4_K_M
    #[arg(value_name = "ORG/NAME[:TAG][@REVISION]")]
    name: HubName,
    /// Branch, tag or commit; the same as @REVISION after the name [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Download the files that a pattern fits, as *.json, in place of those of the model; may be given again
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,
}

impl PullOptions {
    /// The name with the revision, however that was given.
    fn name(&self) -> anyhow::Result<HubName> {
        match (&self.revision, &self.name.revision) {
            (None, _) => Ok(self.name.clone()),
            (Some(given), Some(named)) if given != named => {
                anyhow::bail!("--revision {given} and @{named} name two revisions")
            }
            // By the name's own rules for revisions.
            (Some(given), _) => Ok(format!("{}@{given}", self.name.model_name()).parse()?),
        }
    }
}

/// Downloads a model into the Hugging Face cache; what is there already is not loaded again.
///
/// # Errors
/// If the download fails; offline, if the cache lacks a file.
pub(crate) fn pull(options: &PullOptions, settings: &Settings) -> anyhow::Result<()> {
    let (name, hub_options) = (options.name()?, loading::hub_options(settings));
    let mut out = std::io::stdout();
    if !options.files.is_empty() {
        anyhow::ensure!(name.tag.is_none(), "--file and :TAG both choose files; give one of them");
        let paths = hub::fetch_files(&name, &options.files, &hub_options, &Bars::default())?;
        return Ok(paths.iter().try_for_each(|path| writeln!(out, "{}", path.display()))?);
    }
    let (HubFiles::Folder(path) | HubFiles::Gguf(path)) = hub::fetch(&name, &hub_options, &Bars::default())?;
    Ok(writeln!(out, "{name} is in {}", path.display())?)
}
