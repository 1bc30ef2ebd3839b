//! The settings that hold, checked.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};

use anyhow::Context;
use serde::Deserialize;
use sparkv::{Budget, KvChoice, KvOptions, Presets};
use sparkv_engine::SamplingParams;
use sparkv_eval::SettingsUnderTest;
use sparkv_models::{DeviceChoice, WeightFormat};
use sparkv_server::ApiKey;

use crate::layers::Layers;

/// Every setting, checked as far as it can be without a model.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which model, and how it is held.
    pub(crate) model: ModelSettings,
    /// How it is served.
    pub(crate) server: ServerSettings,
    /// How `sparkv run` answers.
    pub(crate) run: RunSettings,
    /// What `preset` may name.
    pub(crate) presets: Presets,
    /// What a request's KV cache may cost if it does not say.
    pub(crate) kv: KvChoice,
    /// The same as the operator wrote it.
    pub(crate) kv_name: String,
    /// Clients must send it, if set.
    pub(crate) api_key: Option<ApiKey>,
}

/// The merged sources, by the sections of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    model: ModelSettings,
    kv: KvOptions,
    server: ServerSettings,
    run: RunSettings,
    presets: BTreeMap<String, KvOptions>,
}

/// Which model, and how it is held.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// Folder, file or name, looked up when it is loaded.
    pub(crate) source: String,
    /// Threads that compute; chosen by [`crate::threads`] if `None`.
    pub(crate) threads: Option<NonZeroUsize>,
    /// Where it runs.
    pub(crate) device: DeviceChoice,
    /// How weights are held.
    pub(crate) weights: WeightFormat,
    /// Whether the network is off limits.
    pub(crate) offline: bool,
}

/// How it is served.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSettings {
    /// Address or name to listen on.
    pub(crate) host: String,
    /// Port to listen on; 0 for a free one.
    pub(crate) port: u16,
    /// Requests that may wait.
    pub(crate) max_queue: NonZeroUsize,
    /// Requests that run at a time.
    pub(crate) max_running: NonZeroUsize,
    /// Memory for KV caches; a share is one of what is free once the model is loaded.
    pub(crate) kv_memory: Budget,
    /// Whether what was computed is kept.
    pub(crate) prefix_cache: bool,
    /// See [`sparkv_engine::EngineConfig::prompt_balance`]; at least 0.
    pub(crate) prompt_balance: f64,
    /// Seconds that a request may take.
    pub(crate) request_seconds: Option<NonZeroU32>,
    /// Checked in [`Settings::api_key`].
    api_key: Option<String>,
    /// Bytes of the largest request body taken.
    pub(crate) body_limit: usize,
    /// Seconds that running requests get to finish.
    pub(crate) drain_seconds: u32,
}

/// How `sparkv run` answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSettings {
    /// Most tokens to generate; what fits if `None`.
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// 0 is greedy.
    pub(crate) temperature: f64,
    /// Makes draws repeatable.
    pub(crate) seed: Option<u64>,
    /// Whether the chat template is left out.
    pub(crate) raw: bool,
    /// Whether to print JSON.
    pub(crate) json: bool,
}

impl RunSettings {
    /// How tokens are drawn.
    pub(crate) fn sampling(&self) -> SamplingParams {
        let temperature = self.temperature as f32;
        SamplingParams { temperature, seed: self.seed, ..SamplingParams::default() }
    }
}

impl Settings {
    /// Checks the merged sources.
    ///
    /// # Errors
    /// A preset, KV setting, model, temperature or API key that cannot be; the message names it.
    pub(crate) fn new(layers: &Layers) -> anyhow::Result<Self> {
        let Document { model, kv, mut server, run, presets } = layers.merged().try_into()?;
        let presets = Presets::built_in()?.with(presets)?;
        let kv_name = kv_name(&kv)?;
        let kv = presets
            .resolve(&kv)
            .map_err(|error| anyhow::anyhow!("kv.{} (from {})", error, layers.origin("kv", "")))?;
        if model.source.is_empty() {
            let origin = layers.origin("model", "source");
            anyhow::bail!("model.source (from {origin}): must name a folder, a file or a model, got nothing");
        }
        if !(server.prompt_balance.is_finite() && server.prompt_balance >= 0.0) {
            let origin = layers.origin("server", "prompt_balance");
            anyhow::bail!("server.prompt_balance (from {origin}): must be a number of at least 0");
        }
        run.sampling()
            .validate()
            .map_err(|error| anyhow::anyhow!("run.{} (from {})", error, layers.origin("run", error.param)))?;
        let api_key = server
            .api_key
            .take()
            .map(ApiKey::new)
            .transpose()
            .with_context(|| format!("server.api_key (from {})", layers.origin("server", "api_key")))?;
        Ok(Self { model, server, run, presets, kv, kv_name, api_key })
    }

    /// What `options` ask for, under the name they were given by.
    ///
    /// # Errors
    /// If there is no such preset, or the options contradict each other.
    pub(crate) fn under_test(&self, options: &KvOptions) -> anyhow::Result<SettingsUnderTest> {
        let name = kv_name(options)?;
        let choice = self.presets.resolve(options).with_context(|| format!("--kv {name}"))?;
        Ok(SettingsUnderTest { name, choice })
    }
}

/// A preset's name, or JSON: what --kv takes.
fn kv_name(options: &KvOptions) -> anyhow::Result<String> {
    match &options.preset {
        Some(name) if *options == (KvOptions { preset: Some(name.clone()), ..KvOptions::default() }) => {
            Ok(name.clone())
        }
        _ => Ok(serde_json::to_string(options)?),
    }
}
