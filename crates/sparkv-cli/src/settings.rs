//! The settings that hold, checked.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use sparkv::{Budget, KvChoice, KvOptions, Presets};
use sparkv_engine::SamplingParams;
use sparkv_eval::SettingsUnderTest;
use sparkv_models::{DeviceChoice, WeightFormat};
use sparkv_server::{ApiKey, ApiKeys, CorsOrigins, Tls};

use crate::layers::Layers;
use crate::options::{LogFormat, one_or_several};

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
    /// Checked in [`Settings::api_keys`].
    #[serde(default, deserialize_with = "one_or_several")]
    api_key: Option<Vec<String>>,
    /// File with further keys.
    pub(crate) api_key_file: Option<PathBuf>,
    /// Checked in [`Settings::cors`].
    #[serde(default, deserialize_with = "one_or_several")]
    cors_origin: Option<Vec<String>>,
    /// Checked in [`Settings::tls`].
    tls_cert: Option<PathBuf>,
    /// Checked in [`Settings::tls`].
    tls_key: Option<PathBuf>,
    /// Connections open at a time.
    pub(crate) max_connections: NonZeroU32,
    /// Seconds in which a head must have come.
    pub(crate) header_seconds: NonZeroU32,
    /// Bytes of the largest head taken.
    pub(crate) header_limit: NonZeroUsize,
    /// Bytes of the largest request body taken.
    pub(crate) body_limit: usize,
    /// Seconds that running requests get to finish.
    pub(crate) drain_seconds: u32,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
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
    /// A preset, KV setting, model, temperature, API key or origin that cannot be; the message names it.
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
        let keys = server.api_key.take().unwrap_or_default().into_iter().map(ApiKey::new);
        let keys = keys
            .collect::<Result<_, _>>()
            .with_context(|| format!("server.api_key (from {})", layers.origin("server", "api_key")))?;
        let cors = CorsOrigins::new(&server.cors_origin.take().unwrap_or_default()).with_context(|| {
            format!("server.cors_origin (from {})", layers.origin("server", "cors_origin"))
        })?;
        let tls = match (server.tls_cert.take(), server.tls_key.take()) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => anyhow::bail!("server.tls_key is missing: TLS wants tls_cert and tls_key"),
            (None, Some(_)) => anyhow::bail!("server.tls_cert is missing: TLS wants tls_cert and tls_key"),
        };
        Ok(Self { model, server, run, presets, kv, kv_name, keys, cors, tls })
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

    /// Reads the files that a server would read: keys, certificate.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn check_files(&self) -> anyhow::Result<()> {
        self.api_keys()?;
        if let Some(TlsFiles { certificate, key }) = &self.tls {
            Tls::read(certificate, key)?;
        }
        Ok(())
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

/// The keys of a file: one a line, but for empty lines and those that begin with #.
fn read_keys(path: &Path) -> anyhow::Result<Vec<ApiKey>> {
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

/// A preset's name, or JSON: what --kv takes.
fn kv_name(options: &KvOptions) -> anyhow::Result<String> {
    match &options.preset {
        Some(name) if *options == (KvOptions { preset: Some(name.clone()), ..KvOptions::default() }) => {
            Ok(name.clone())
        }
        _ => Ok(serde_json::to_string(options)?),
    }
}
