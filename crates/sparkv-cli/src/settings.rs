//! The settings that hold, checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use sparkv::{KvChoice, KvOptions, Presets};
use sparkv_engine::{GenerationDefaults, RepetitionDetection, SamplingParams};
use sparkv_eval::SettingsUnderTest;
use sparkv_models::AdvisedSampling;
use sparkv_server::{ApiKey, ApiKeys, CorsOrigins};

use crate::layers::{Layers, Origin};
use crate::options::{GenerationSettings, ModelSettings, RunSettings, ServerSettings};

/// Every setting, checked as far as it can be without a model.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which model, and how it is held.
    pub(crate) model: ModelSettings,
    /// How answers are generated where a request does not say.
    pub(crate) generation: GenerationSettings,
    /// Whether somebody set `max_tokens`, so that it is no default.
    pub(crate) max_tokens_given: bool,
    /// How it is served.
    pub(crate) server: ServerSettings,
    /// How `sparkv run` and `sparkv chat` answer.
    pub(crate) run: RunSettings,
    /// What `preset` may name.
    pub(crate) presets: Presets,
    /// What a request's KV cache may cost if it does not say.
    pub(crate) kv: KvChoice,
    /// The same as the operator wrote it.
    pub(crate) kv_name: String,
    /// Keys that open the server; those of the file come on top.
    keys: Vec<ApiKey>,
    /// Pages of which origins may call.
    pub(crate) cors: CorsOrigins,
    /// Certificate and key, if connections are secured.
    pub(crate) tls: Option<TlsFiles>,
}

/// Files for TLS, not read yet.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// The merged sources, by the sections of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    model: ModelSettings,
    kv: KvOptions,
    generation: GenerationSettings,
    server: ServerSettings,
    run: RunSettings,
    presets: BTreeMap<String, KvOptions>,
}

/// How tokens are drawn if neither the operator nor the model's files say: as in llama.cpp.
const USUAL_SAMPLING: AdvisedSampling = AdvisedSampling {
    temperature: Some(0.8),
    top_p: Some(0.95),
    top_k: Some(40),
    min_p: Some(0.05),
    repetition_penalty: Some(1.0),
};

impl GenerationSettings {
    /// What holds where a request does not say, for a model whose files advise this.
    pub(crate) fn defaults(&self, advised: &AdvisedSampling) -> GenerationDefaults {
        let advised = if advised.is_empty() { &USUAL_SAMPLING } else { advised };
        let chosen = |set: Option<f64>, advised: Option<f32>, off: f32| {
            set.map(|value| value as f32).or(advised).unwrap_or(off)
        };
        let repeats = (self.stop_repetition > 0).then(|| RepetitionDetection::of_lines(self.stop_repetition));
        let sampling = SamplingParams {
            temperature: chosen(self.temperature, advised.temperature, 1.0),
            top_p: chosen(self.top_p, advised.top_p, 1.0),
            top_k: self.top_k.or(advised.top_k).unwrap_or(0),
            min_p: chosen(self.min_p, advised.min_p, 0.0),
            repetition_penalty: chosen(self.repetition_penalty, advised.repetition_penalty, 1.0),
            presence_penalty: self.presence_penalty as f32,
            frequency_penalty: self.frequency_penalty as f32,
            repetition_detection: repeats,
            ..SamplingParams::default()
        };
        GenerationDefaults { max_tokens: self.max_tokens, sampling }
    }
}

impl Settings {
    /// Checks the merged sources.
    ///
    /// # Errors
    /// A preset, KV setting, model, temperature, API key or origin that cannot be; the message names it.
    pub(crate) fn new(layers: &Layers) -> anyhow::Result<Self> {
        let Document { model, kv, generation, mut server, run, presets } = layers.merged().try_into()?;
        let mut presets = Presets::built_in()?.with(presets)?;
        if let Some(path) = &model.calibration {
            presets = calibrated(presets, path, layers)?;
        }
        let kv_name = kv_name(&kv)?;
        let kv = presets
            .resolve(&kv)
            .map_err(|error| anyhow::anyhow!("kv.{} (from {})", error, layers.origin("kv", "")))?;
        if model.source.is_empty() {
            let setting = layers.setting("model", "source");
            anyhow::bail!("{setting}: must name a folder, a file or a model, got nothing");
        }
        if !(server.prompt_balance.is_finite() && server.prompt_balance >= 0.0) {
            let setting = layers.setting("server", "prompt_balance");
            anyhow::bail!("{setting}: must be a number of at least 0");
        }
        generation.defaults(&AdvisedSampling::default()).sampling.validate().map_err(|error| {
            let (key, message) = match error.param {
                "repetition_detection" => ("stop_repetition", "must be 0 or at least 2"),
                param => (param, error.message.as_str()),
            };
            anyhow::anyhow!("{}: {message}", layers.setting("generation", key))
        })?;
        let is_blank = |name: &String| name.trim().is_empty() || name.contains(char::is_control);
        if server.served_model_name.iter().flatten().any(is_blank) {
            let setting = layers.setting("server", "served_model_name");
            anyhow::bail!("{setting}: a name must not be empty, and in one line");
        }
        let keys = server.api_key.take().unwrap_or_default().into_iter().map(ApiKey::new);
        let keys = keys.collect::<Result<_, _>>().with_context(|| layers.setting("server", "api_key"))?;
        let cors = CorsOrigins::new(&server.cors_origin.take().unwrap_or_default())
            .with_context(|| layers.setting("server", "cors_origin"))?;
        let tls = match (server.tls_cert.take(), server.tls_key.take()) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => anyhow::bail!("server.tls_key is missing: TLS wants tls_cert and tls_key"),
            (None, Some(_)) => anyhow::bail!("server.tls_cert is missing: TLS wants tls_cert and tls_key"),
        };
        let max_tokens_given = *layers.origin("generation", "max_tokens") != Origin::Default;
        Ok(Self { model, generation, max_tokens_given, server, run, presets, kv, kv_name, keys, cors, tls })
    }

    /// All keys: those given, and those of the file, which is read now.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no key or something else; the message names the line and not what is
    /// in it.
    pub(crate) fn api_keys(&self) -> anyhow::Result<ApiKeys> {
        let Some(path) = &self.server.api_key_file else { return Ok(self.keys.iter().cloned().collect()) };
        let of_file = read_keys(path).with_context(|| format!("server.api_key_file {}", path.display()))?;
        Ok(self.keys.iter().cloned().chain(of_file).collect())
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

/// The presets, with budgets that choose from the table at `path`, which `layers` name.
///
/// # Errors
/// If the table cannot be read or used.
pub(crate) fn calibrated(presets: Presets, path: &Path, layers: &Layers) -> anyhow::Result<Presets> {
    let table = std::fs::read_to_string(path).map_err(anyhow::Error::from);
    let read = table.and_then(|table| Ok(presets.with_calibration(&table)?));
    read.with_context(|| format!("{}: {}", layers.setting("model", "calibration"), path.display()))
}

/// The keys of a file: one a line, but for empty lines and those that begin with #.
///
/// # Errors
/// As of [`Settings::api_keys`].
pub(crate) fn read_keys(path: &Path) -> anyhow::Result<Vec<ApiKey>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let keys: Vec<ApiKey> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| ApiKey::new(line).with_context(|| format!("line {number}")))
        .collect::<anyhow::Result<_>>()?;
    // Nobody names a file of keys for a server that is open to all.
    anyhow::ensure!(!keys.is_empty(), "holds no key");
    Ok(keys)
}

/// A preset's name, a budget, or JSON: what --kv takes.
fn kv_name(options: &KvOptions) -> anyhow::Result<String> {
    let bare = KvOptions { preset: options.preset.clone(), budget: options.budget, ..KvOptions::default() };
    match (&options.preset, options.budget) {
        (Some(name), None) if *options == bare => Ok(name.clone()),
        (None, Some(budget)) if *options == bare => Ok(budget.to_string()),
        _ => Ok(serde_json::to_string(options)?),
    }
}
