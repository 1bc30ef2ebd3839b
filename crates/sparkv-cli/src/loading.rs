//! From settings to a running engine.

use anyhow::Context;
use sparkv_engine::{EngineConfig, TextEngine, TextModel};
use sparkv_models::{HubOptions, LoadOptions, ModelSource, load as load_model};

use crate::progress::Bars;
use crate::settings::Settings;

/// A model that is ready for requests.
pub(crate) struct Loaded {
    /// Takes requests.
    pub(crate) engine: TextEngine,
    /// What the model is called.
    pub(crate) name: String,
    /// What else it may be called: the name as the operator wrote it.
    pub(crate) alias: String,
    /// Whether it can take conversations.
    pub(crate) has_chat_template: bool,
}

/// Loads the model and starts its engine.
///
/// # Errors
/// If the model is not there, not supported or broken.
pub(crate) fn load(settings: &Settings) -> anyhow::Result<Loaded> {
    let model = &settings.model;
    let source: ModelSource = model.source.parse()?;
    let default = HubOptions::default();
    let options = LoadOptions {
        weights: model.weights,
        device: model.device,
        hub: HubOptions { offline: model.offline || default.offline, ..default },
    };
    let loaded = load_model(&source, &options, &Bars::default())?;
    let text = loaded.text;
    let has_chat_template = text.chat_template.is_some();
    let text = TextModel::new(
        text.tokenizer,
        text.chat_template.as_deref(),
        text.bos_token.as_deref(),
        text.eos_token.as_deref(),
    )?;
    let config = EngineConfig { max_queue: settings.server.max_queue };
    let engine =
        TextEngine::start(loaded.decoder, text, config).context("cannot start the engine's thread")?;
    Ok(Loaded { engine, name: loaded.name, alias: source.to_string(), has_chat_template })
}
