//! `sparkv pull`.

use std::io::Write;

use sparkv_models::{ModelSource, hub};

use crate::loading;
use crate::progress::Bars;
use crate::settings::Settings;

/// Downloads a model into the Hugging Face cache; what is there already is not loaded again.
///
/// # Errors
/// If `name` is no name of the hub, or the download fails; offline, if the cache lacks a file.
pub(crate) fn pull(name: &str, settings: &Settings) -> anyhow::Result<()> {
    let ModelSource::Hub(name) = name.parse()? else {
        anyhow::bail!("`{name}` is not a name on the hub; those look like ORG/NAME");
    };
    let folder = hub::fetch(&name, &loading::hub_options(settings), &Bars::default())?;
    Ok(writeln!(std::io::stdout(), "{name} is in {}", folder.display())?)
}
