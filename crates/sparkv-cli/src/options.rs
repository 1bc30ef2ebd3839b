//! Every option once: as a flag, as a SPARKV_... variable and as a key of the TOML file.
//!
//! All fields are optional here, because each source may set any part; [`crate::settings`] lays the sources
//! over one another. A field's name is its key in the file and its flag's id.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize};
use sparkv::{Budget, KvOptions};
use sparkv_models::{DeviceChoice, WeightFormat};

/// What one source sets; the layout of the TOML file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Options {
    /// Which model, and how it is held.
    pub(crate) model: ModelOptions,
    /// What a request's KV cache may cost if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kv: Option<KvOptions>,
    /// How it is served.
    pub(crate) server: ServerOptions,
    /// How `sparkv run` answers.
    pub(crate) run: RunOptions,
    /// Presets of the operator, by name. (Files only.)
    pub(crate) presets: BTreeMap<String, KvOptions>,
}

/// Which model, and how it is held.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Model")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelOptions {
    /// Folder, GGUF file, or name on the Hugging Face hub; demo is the model in the binary
    #[arg(long = "model", env = "SPARKV_MODEL", value_name = "DIR|FILE.gguf|ORG/NAME|demo")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Where it runs: auto, cpu, cuda, cuda:N or metal
    #[arg(long, env = "SPARKV_DEVICE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<DeviceChoice>,
    /// How weights are held: auto, f32, f16, bf16, q8_0 or q4k
    #[arg(long, env = "SPARKV_WEIGHTS", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<WeightFormat>,
    /// Threads that compute; left out: one for each core, but one for the demo model, which is too small.
    /// (Sets RAYON_NUM_THREADS and CANDLE_NUM_THREADS, whatever they were)
    #[arg(long, env = "SPARKV_THREADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Never use the network
    #[arg(long, env = "SPARKV_OFFLINE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offline: Option<bool>,
}

/// What a request's KV cache may cost if it does not say.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "KV cache")]
pub(crate) struct KvFlag {
    /// Default KV cache settings: a preset's name, or the JSON object of a request's `kv_cache`
    #[arg(long, env = "SPARKV_KV", value_name = "PRESET|JSON", value_parser = parse_kv)]
    pub(crate) kv: Option<KvOptions>,
}

/// How it is served.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Server")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerOptions {
    /// Address or name to listen on
    #[arg(long, env = "SPARKV_HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SPARKV_PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Requests that may wait for their turn
    #[arg(long, env = "SPARKV_MAX_QUEUE", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_queue: Option<NonZeroUsize>,
    /// Requests that run at a time, memory permitting
    #[arg(long, env = "SPARKV_MAX_RUNNING", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_running: Option<NonZeroUsize>,
    /// Memory for the KV caches of all requests: bytes, or a share of what is free once the model is loaded
    #[arg(long, env = "SPARKV_KV_MEMORY", value_name = "4GiB|75%")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kv_memory: Option<Budget>,
    /// Keep what was computed, as far as the memory allows, for requests that begin with the same tokens
    #[arg(long, env = "SPARKV_PREFIX_CACHE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefix_cache: Option<bool>,
    /// Time for prompts in a step, in units of what a token takes those who are being answered: larger is better
    /// for prompts, smaller for answers
    #[arg(long, env = "SPARKV_PROMPT_BALANCE", value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_balance: Option<f64>,
    /// Seconds after which a request ends, waiting or at work, if it has not by itself
    #[arg(long, env = "SPARKV_REQUEST_SECONDS", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_seconds: Option<NonZeroU32>,
    /// Clients must send this key, or one of several: given again, or with commas between them
    #[arg(long, env = "SPARKV_API_KEY", value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_several")]
    pub(crate) api_key: Option<Vec<String>>,
    /// File with keys, one a line; # begins a comment
    #[arg(long, env = "SPARKV_API_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Origin whose web pages may call, such as https://example.org; may be given again; * for every one
    #[arg(long, env = "SPARKV_CORS_ORIGIN", value_name = "ORIGIN|*", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_several")]
    pub(crate) cors_origin: Option<Vec<String>>,
    /// Certificate for TLS, and those of its issuers: a PEM file. Plain HTTP without it
    #[arg(long, env = "SPARKV_TLS_CERT", value_name = "FILE.pem")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate: a PEM file
    #[arg(long, env = "SPARKV_TLS_KEY", value_name = "FILE.pem")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Connections open at a time; further ones wait until one ends
    #[arg(long, env = "SPARKV_MAX_CONNECTIONS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<NonZeroU32>,
    /// Seconds in which a request's head must have come; idle connections are closed after as many
    #[arg(long, env = "SPARKV_HEADER_SECONDS", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header_seconds: Option<NonZeroU32>,
    /// Largest head of a request taken, in bytes
    #[arg(long, env = "SPARKV_HEADER_LIMIT", value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header_limit: Option<NonZeroUsize>,
    /// Largest request body taken, in bytes
    #[arg(long, env = "SPARKV_BODY_LIMIT", value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_limit: Option<usize>,
    /// Seconds that running requests get to finish when told to stop
    #[arg(long, env = "SPARKV_DRAIN_SECONDS", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_seconds: Option<u32>,
    /// How the log is written: text or json, an object a line
    #[arg(long, env = "SPARKV_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_format: Option<LogFormat>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// An object a line, for machines
    Json,
}

/// How `sparkv run` answers.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Answer")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunOptions {
    /// Most tokens to generate; left out: what fits in the context
    #[arg(long, env = "SPARKV_MAX_TOKENS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// 0 takes the likeliest token; higher is more varied
    #[arg(long, env = "SPARKV_TEMPERATURE", value_name = "T", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f64>,
    /// Makes a temperature above 0 repeatable. (Not above 2^63 - 1: TOML's integers are signed.)
    #[arg(long, env = "SPARKV_SEED", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// Complete the text as it is, without the chat template (as is always done if the model has none)
    #[arg(long, env = "SPARKV_RAW", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) raw: Option<bool>,
    /// Print one JSON object: text, token_ids, finish_reason, usage, timings
    #[arg(long, env = "SPARKV_JSON", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) json: Option<bool>,
}

/// A string, or an array of strings.
pub(crate) fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or an array of strings")]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }
    Ok(Some(match OneOrSeveral::deserialize(from)? {
        OneOrSeveral::One(one) => vec![one],
        OneOrSeveral::Several(several) => several,
    }))
}

/// A preset's name, or settings as JSON.
pub(crate) fn parse_kv(text: &str) -> Result<KvOptions, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else if text.is_empty() {
        Err("a preset's name or a JSON object is expected".to_owned())
    } else {
        Ok(KvOptions { preset: Some(text.to_owned()), ..KvOptions::default() })
    }
}
