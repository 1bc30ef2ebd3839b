//! From settings to a model, and to a running engine.

use std::fs::read_to_string;
use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context, bail};
use sparkv::accelerator::{Gpu, gpus};
use sparkv::{Budget, parallel};
use sparkv_engine::{EngineConfig, GenerationDefaults, TextEngine, TextModel};
use sparkv_eval::bench::Loading;
use sparkv_models::{
    DeviceChoice, HubOptions, LanguageModel, LoadOptions, LoadedModel, ModelSource, Progress, WeightFormat,
    load as load_files,
};
use sysinfo::System;

use crate::allocator;
use crate::settings::Settings;

/// A model that is ready for requests.
pub(crate) struct Loaded {
    /// Takes requests.
    pub(crate) engine: TextEngine,
    /// What the model is called.
    pub(crate) name: String,
    /// Where it is, as the operator wrote it.
    pub(crate) source: String,
    /// Whether it can take conversations.
    pub(crate) has_chat_template: bool,
    /// What holds where a request does not say.
    pub(crate) generation: GenerationDefaults,
    /// How weights are held, and the bytes of each type.
    pub(crate) weight_types: Vec<(&'static str, u64)>,
    /// The GPU that computes; `None` where the CPU does.
    pub(crate) gpu: Option<Gpu>,
    /// What it took to load it.
    pub(crate) loading: Loading,
}

/// Finds out which model is meant, and settles how many threads will compute.
///
/// # Errors
/// If nothing is called that, or the device cannot be used.
pub(crate) fn source(settings: &Settings) -> anyhow::Result<ModelSource> {
    set_threads(settings);
    // What cannot be used is told before a server listens.
    settings.model.device.open()?;
    Ok(settings.model.source.parse()?)
}

/// Settles how many threads will compute, if the settings say so. To be called before any computes.
pub(crate) fn set_threads(settings: &Settings) {
    if let Some(threads) = settings.model.threads {
        parallel::set_threads(threads);
    }
}

/// How to reach the hub: as Hugging Face's own variables say, and not at all if the settings say so.
pub(crate) fn hub_options(settings: &Settings) -> HubOptions {
    let default = HubOptions::default();
    HubOptions { offline: settings.model.offline || default.offline, ..default }
}

/// Loads the model, its weights held as `weights`; `progress` hears how far it is.
///
/// # Errors
/// If the model is not there, not supported or broken.
pub(crate) fn load_model(
    settings: &Settings,
    source: &ModelSource,
    weights: WeightFormat,
    progress: &dyn Progress,
) -> anyhow::Result<(LoadedModel, TextModel)> {
    let (device, kv_memory) = (settings.model.device, settings.server.kv_memory);
    let options = LoadOptions { weights, device, kv_memory, hub: hub_options(settings) };
    let mut loaded = load_files(source, &options, progress)?;
    if !loaded.text.not_cached.is_empty() {
        let (files, template) = (loaded.text.not_cached.join(", "), loaded.text.chat_template.is_some());
        tracing::warn!(
            files,
            template,
            "the hub could not be asked for files that the cache lacks and the model may have; \
             run `sparkv pull` once online"
        );
    }
    if let Some(path) = &settings.model.chat_template {
        let template = read_to_string(path)
            .with_context(|| format!("cannot read the chat template {}", path.display()))?;
        (loaded.text.chat_template, loaded.text.tool_use_template) = (Some(template), None);
    }
    let text = TextModel::from_files(&loaded.text).with_literal_content(settings.model.literal_content);
    match (text.template_fault(), &settings.model.chat_template) {
        (Some(fault), Some(path)) => {
            bail!("the chat template {} cannot be compiled: {fault}", path.display())
        }
        (Some(fault), None) => {
            tracing::warn!(fault, "the model's chat template cannot be compiled: it takes no chats")
        }
        (None, _) => {}
    }
    Ok((loaded, text))
}

/// Loads the model and starts its engine.
///
/// # Errors
/// If the model is not there, not supported or broken.
pub(crate) fn load(
    settings: &Settings,
    source: &ModelSource,
    progress: &dyn Progress,
) -> anyhow::Result<Loaded> {
    let start = Instant::now();
    let (loaded, text) = load_model(settings, source, settings.model.weights, progress)?;
    allocator::give_back();
    let loading = Loading::since(start, loaded.decoder.weight_bytes());
    let has_chat_template = loaded.text.chat_template.is_some();
    let generation = settings.generation.defaults(&loaded.sampling);
    let weight_types = loaded.decoder.weight_types();
    let made_for = loaded.decoder.info().context_length;
    let most = settings.model.max_model_len;
    check_length(most.map_or(0, NonZeroUsize::get), made_for).context("model.max_model_len")?;
    let server = &settings.server;
    let config = EngineConfig {
        max_context: settings.model.max_model_len,
        max_queue: server.max_queue,
        max_running: server.max_running,
        kv_memory: loaded.decoder.pool().taken().unwrap_or_else(|| kv_memory(server.kv_memory)),
        prefix_cache: server.prefix_cache,
        prompt_balance: server.prompt_balance,
        ..EngineConfig::default()
    };
    tracing::debug!(kv_memory = config.kv_memory, "bytes for KV caches");
    let engine = TextEngine::start(loaded.decoder, text, config, settings.presets.clone())
        .context("cannot start the engine's thread")?;
    let (name, source) = (loaded.name, source.to_string());
    let gpu = gpu(settings.model.device);
    Ok(Loaded { engine, name, source, has_chat_template, generation, weight_types, gpu, loading })
}

/// What is known of the GPU that was chosen.
fn gpu(device: DeviceChoice) -> Option<Gpu> {
    let chosen = if device == DeviceChoice::Auto { DeviceChoice::found() } else { device }.to_string();
    gpus().into_iter().find(|gpu| gpu.device == chosen)
}

/// Checks that a model is not to have a longer context than it was made for.
///
/// # Errors
/// If it is.
pub(crate) fn check_length(most: usize, made_for: usize) -> anyhow::Result<()> {
    anyhow::ensure!(most <= made_for, "{most} is more than the {made_for} that the model was made for");
    Ok(())
}

/// Bytes of the process's memory for KV caches. A share is one of the memory that is free now, or that the container has left.
fn kv_memory(budget: Budget) -> u64 {
    let share = match budget {
        Budget::Bytes(bytes) => return bytes,
        Budget::Share(share) => share,
    };
    let mut system = System::new();
    system.refresh_memory();
    let free = match system.cgroup_limits() {
        Some(limits) => limits.free_memory.min(system.available_memory()),
        None => system.available_memory(),
    };
    // Where the system does not tell, every request is taken.
    if free == 0 { u64::MAX } else { (free as f64 * share) as u64 }
}
