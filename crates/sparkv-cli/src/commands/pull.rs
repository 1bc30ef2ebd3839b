//! `sparkv pull`.

use std::io::Write;

use sparkv_models::{HubOptions, ModelSource, hub};

use crate::progress::Bars;

/// Downloads a model into the Hugging Face cache; what is there already is not loaded again.
///
/// # Errors
/// If `name` is no name of the hub, or the download fails.
pub(crate) fn pull(name: &str) -> anyhow::Result<()> {
    let ModelSource::Hub(name) = name.parse()? else {
        anyhow::bail!("`{name}` is not a name on the hub; those look like ORG/NAME");
    };
    let folder = hub::fetch(&name, &HubOptions::default(), &Bars::default())?;
    Ok(writeln!(std::io::stdout(), "{name} is in {}", folder.display())?)
}
