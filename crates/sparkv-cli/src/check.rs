//! `sparkv config check`: the settings, and what they name on this machine.
//!
//! Files are read as far as a start would read them, but for weights. All that is wrong is told at once.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sparkv_engine::TextModel;
use sparkv_models::{DeviceChoice, HubOptions, ModelSource, hub};
use sparkv_server::Tls;

use crate::layers::Layers;
use crate::loading::check_length;
use crate::settings::{self, Settings};

/// Checks everything; returns what is worth a note, though it is not wrong.
///
/// # Errors
/// All that is wrong, a line for each, with where it comes from.
pub(crate) fn check(layers: &Layers) -> anyhow::Result<Vec<String>> {
    let named = Named { layers };
    let mut notes = Vec::new();
    let checks = [
        Settings::new(layers).map(drop),
        named.model(&mut notes),
        named.device(),
        named.calibration(),
        named.chat_template(),
        named.api_key_file(),
        named.tls(),
    ];
    let mut faults = Vec::new();
    for fault in checks.into_iter().filter_map(|check| Some(format!("{:#}", check.err()?))) {
        // The settings as a whole name one of the others, too.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    match &faults[..] {
        [] => Ok(notes),
        [fault] => bail!("{fault}"),
        faults => bail!("{} settings are wrong:\n{}", faults.len(), faults.join("\n")),
    }
}

/// What settings name.
struct Named<'a> {
    layers: &'a Layers,
}

impl Named<'_> {
    fn text(&self, section: &str, key: &str) -> Option<String> {
        Some(self.layers.merged().get(section)?.get(key)?.as_str()?.to_owned())
    }

    fn path(&self, section: &str, key: &str) -> Option<PathBuf> {
        self.text(section, key).map(PathBuf::from)
    }

    fn model(&self, notes: &mut Vec<String>) -> anyhow::Result<()> {
        let Some(text) = self.text("model", "source").filter(|text| !text.is_empty()) else { return Ok(()) };
        let source = text.parse::<ModelSource>().and_then(|source| {
            let context_length = sparkv_models::check(&source)?;
            Ok((source, context_length))
        });
        let setting = self.layers.setting("model", "source");
        let (source, context_length) = source.with_context(|| setting.clone())?;
        let merged = self.layers.merged();
        let most = merged.get("model").and_then(|model| model.get("max_model_len")?.as_integer());
        if let (Some(Ok(most)), Some(made_for)) = (most.map(usize::try_from), context_length) {
            check_length(most, made_for).with_context(|| self.layers.setting("model", "max_model_len"))?;
        }
        if let ModelSource::Hub(name) = source {
            let hub = HubOptions::default();
            let offline = merged.get("model").and_then(|model| model.get("offline")?.as_bool());
            let offline = hub.offline || offline == Some(true);
            match hub::is_cached(&name, &hub) {
                true => notes.push(format!("{setting}: {name} is in the hub's cache")),
                false if offline => bail!("{setting}: offline, and {name} is not in the hub's cache"),
                false => {
                    notes.push(format!("{setting}: {name} is not in the hub's cache: it will be downloaded"))
                }
            }
        }
        Ok(())
    }

    fn device(&self) -> anyhow::Result<()> {
        let Some(text) = self.text("model", "device") else { return Ok(()) };
        let opened = text.parse::<DeviceChoice>().map_err(anyhow::Error::msg).and_then(|device| {
            device.open()?;
            Ok(())
        });
        opened.with_context(|| self.layers.setting("model", "device"))
    }

    fn calibration(&self) -> anyhow::Result<()> {
        match self.path("model", "calibration") {
            Some(path) => settings::calibrated(sparkv::Presets::built_in()?, &path, self.layers).map(drop),
            None => Ok(()),
        }
    }

    fn chat_template(&self) -> anyhow::Result<()> {
        let Some(path) = self.path("model", "chat_template") else { return Ok(()) };
        let read = std::fs::read_to_string(&path).map_err(anyhow::Error::from);
        let compiled = read.and_then(|source| {
            TextModel::check_template(&source)
                .map_err(|fault| anyhow::anyhow!("it cannot be compiled: {fault}"))
        });
        compiled.with_context(|| self.place("model", "chat_template", &path))
    }

    fn api_key_file(&self) -> anyhow::Result<()> {
        match self.path("server", "api_key_file") {
            Some(path) => settings::read_keys(&path)
                .map(drop)
                .with_context(|| self.place("server", "api_key_file", &path)),
            None => Ok(()),
        }
    }

    fn tls(&self) -> anyhow::Result<()> {
        match (self.path("server", "tls_cert"), self.path("server", "tls_key")) {
            (Some(certificate), Some(key)) => Tls::read(&certificate, &key).map(drop).with_context(|| {
                let (certificate, key) =
                    (self.layers.setting("server", "tls_cert"), self.layers.setting("server", "tls_key"));
                format!("{certificate}, {key}")
            }),
            _ => Ok(()),
        }
    }

    /// A setting, where it comes from, and the file that it names.
    fn place(&self, section: &str, key: &str, path: &Path) -> String {
        format!("{}: {}", self.layers.setting(section, key), path.display())
    }
}
