//! Every option once: as a flag, as a SPARKV_... variable and as a key of the TOML file.
//!
//! Each source may set any part; [`crate::settings`] checks what they come to together. A field's name is its key in the
//! file and its flag's id.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize};
use sparkv::{Budget, KvOptions};
use sparkv_models::{DeviceChoice, WeightFormat};
use sparkv_server::UnknownFields;

/// What one source sets; the layout of the TOML file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Options {
    /// Which model, and how it is held.
    pub(crate) model: ModelOptions,
    /// What a request's KV cache may cost if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kv: Option<KvOptions>,
    /// How answers are generated where a request does not say.
    pub(crate) generation: GenerationOptions,
    /// How it is served.
    pub(crate) server: ServerOptions,
    /// How `sparkv run` and `sparkv chat` answer.
    pub(crate) run: RunOptions,
    /// Presets of the operator, by name. (Files only.)
    pub(crate) presets: BTreeMap<String, KvOptions>,
}

/// A setting that has a default.
type Required<T> = T;

/// A setting that may be left out.
type Optional<T> = Option<T>;

/// Declares a section of the settings once, as two structs: what one source sets, where every field may be missing, and
/// what holds in the end, where only those are missing that have no default. (The defaults, and what there is to say
/// about each setting, are in configs/default.toml.)
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        #[heading = $heading:literal]
        $options:ident, $settings:ident {
            $(
                $(#[doc = $doc:literal])*
                #[arg($($arg:tt)*)]
                $(#[serde($($serde:tt)*)])?
                $name:ident: $presence:ident<$type:ty>,
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
        #[command(next_help_heading = $heading)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $options {
            $(
                $(#[doc = $doc])*
                #[arg($($arg)*)]
                #[serde(skip_serializing_if = "Option::is_none")]
                $(#[serde($($serde)*)])?
                pub(crate) $name: Option<$type>,
            )*
        }

        $(#[doc = $about])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $settings {
            $(
                $(#[doc = $doc])*
                $(#[serde($($serde)*)])?
                pub(crate) $name: $presence<$type>,
            )*
        }
    };
}

section! {
    /// Which model, and how it is held.
    #[heading = "Model"]
    ModelOptions, ModelSettings {
        /// Folder, GGUF file, or name on the Hugging Face hub, as ORG/NAME, ORG/NAME:Q4_K_M or ORG/NAME@REVISION; demo is
        /// the model in the binary
        #[arg(long = "model", short = 'm', env = "SPARKV_MODEL", value_name = "DIR|FILE.gguf|ORG/NAME|demo")]
        source: Required<String>,
        /// Positions of prompt and answer together; left out: as many as the model was made for
        #[arg(long, env = "SPARKV_MAX_MODEL_LEN", value_name = "TOKENS", value_parser = at_least_one::<NonZeroUsize>)]
        max_model_len: Optional<NonZeroUsize>,
        /// Where it runs: auto, cpu, cuda, cuda:N or metal
        #[arg(long, env = "SPARKV_DEVICE")]
        device: Required<DeviceChoice>,
        /// How weights are held: auto, f32, f16, bf16, q8_0 or q4k
        #[arg(long, env = "SPARKV_WEIGHTS", value_name = "FORMAT")]
        weights: Required<WeightFormat>,
        /// Threads that compute; left out: one for each core this process may use (quota and affinity)
        #[arg(long, env = "SPARKV_THREADS", value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        threads: Optional<NonZeroUsize>,
        /// Table that budgets choose from, of sparkv eval --calibrate; left out: one for the model, or one for all
        #[arg(long, env = "SPARKV_CALIBRATION", value_name = "FILE")]
        calibration: Optional<PathBuf>,
        /// Chat template (Jinja); left out: the model's own
        #[arg(long, env = "SPARKV_CHAT_TEMPLATE", value_name = "FILE")]
        chat_template: Optional<PathBuf>,
        /// Text of messages is text: what spells a special token there is no token
        #[arg(long, env = "SPARKV_LITERAL_CONTENT", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        literal_content: Required<bool>,
        /// Never use the network
        #[arg(long, env = "SPARKV_OFFLINE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        offline: Required<bool>,
    }
}

impl ModelOptions {
    /// The same with the model that was named without a flag, if one was: it beats a variable.
    ///
    /// # Errors
    /// If --model names one, too.
    pub(crate) fn named(self, name: Option<String>, matches: &ArgMatches) -> anyhow::Result<Self> {
        let Some(name) = name else { return Ok(self) };
        let flag = matches.value_source("source") == Some(ValueSource::CommandLine);
        anyhow::ensure!(!flag, "the model is named twice: `{name}`, and after --model");
        Ok(Self { source: Some(name), ..self })
    }
}

/// What a request's KV cache may cost if it does not say.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "KV cache")]
pub(crate) struct KvFlag {
    /// What KV caches may cost if a request does not say: a preset's name, a budget (25%, 64MiB), or the JSON object of a
    /// request's `kv_cache`
    #[arg(long, env = "SPARKV_KV", value_name = "PRESET|BUDGET|JSON", value_parser = parse_kv)]
    pub(crate) kv: Option<KvOptions>,
}

section! {
    /// How it is served.
    #[heading = "Server"]
    ServerOptions, ServerSettings {
        /// Address or name to listen on
        #[arg(long, env = "SPARKV_HOST")]
        host: Required<String>,
        /// Port to listen on; 0 takes a free one
        #[arg(long, env = "SPARKV_PORT")]
        port: Required<u16>,
        /// Name that the model is served under; further ones may be used for it, too: given again, or with commas between
        /// them; left out: its own
        #[arg(long, env = "SPARKV_SERVED_MODEL_NAME", value_name = "NAME", value_delimiter = ',')]
        #[serde(default, deserialize_with = "one_or_several")]
        served_model_name: Optional<Vec<String>>,
        /// Take requests for whatever model they name
        #[arg(long, env = "SPARKV_ACCEPT_ANY_MODEL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        accept_any_model: Required<bool>,
        /// Requests that may wait for their turn
        #[arg(long, env = "SPARKV_MAX_QUEUE", value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        max_queue: Required<NonZeroUsize>,
        /// Requests that run at a time, memory permitting
        #[arg(long, env = "SPARKV_MAX_RUNNING", value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        max_running: Required<NonZeroUsize>,
        /// Memory for the KV caches of all requests: bytes, or a share of what is free once the model is loaded
        #[arg(long, env = "SPARKV_KV_MEMORY", value_name = "4GiB|75%")]
        kv_memory: Required<Budget>,
        /// Keep what was computed, as far as the memory allows, for requests that begin with the same tokens
        #[arg(long, env = "SPARKV_PREFIX_CACHE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        prefix_cache: Required<bool>,
        /// Time for prompts in a step, in units of what a token takes those who are being answered: larger is better
        /// for prompts, smaller for answers
        #[arg(long, env = "SPARKV_PROMPT_BALANCE", value_name = "X", value_parser = number)]
        prompt_balance: Required<f64>,
        /// Seconds after which a request ends, waiting or at work; left out: it may take any time
        #[arg(long, env = "SPARKV_REQUEST_SECONDS", value_name = "SECONDS", value_parser = at_least_one::<NonZeroU32>)]
        request_seconds: Optional<NonZeroU32>,
        /// Clients must send this key, or one of several: given again, or with commas between them; left out: they need
        /// none
        #[arg(long, env = "SPARKV_API_KEY", value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
        #[serde(default, deserialize_with = "one_or_several")]
        api_key: Optional<Vec<String>>,
        /// File with keys, one a line; # begins a comment; left out: none
        #[arg(long, env = "SPARKV_API_KEY_FILE", value_name = "FILE")]
        api_key_file: Optional<PathBuf>,
        /// Origin whose web pages may call, such as https://example.org; may be given again; * for every one; left out:
        /// none may
        #[arg(long, env = "SPARKV_CORS_ORIGIN", value_name = "ORIGIN|*", value_delimiter = ',')]
        #[serde(default, deserialize_with = "one_or_several")]
        cors_origin: Optional<Vec<String>>,
        /// Certificate for TLS, and those of its issuers: a PEM file; left out: plain HTTP
        #[arg(long, env = "SPARKV_TLS_CERT", value_name = "FILE.pem")]
        tls_cert: Optional<PathBuf>,
        /// Private key of the certificate: a PEM file; left out: plain HTTP
        #[arg(long, env = "SPARKV_TLS_KEY", value_name = "FILE.pem")]
        tls_key: Optional<PathBuf>,
        /// Connections open at a time; further ones wait until one ends
        #[arg(long, env = "SPARKV_MAX_CONNECTIONS", value_name = "N", value_parser = at_least_one::<NonZeroU32>)]
        max_connections: Required<NonZeroU32>,
        /// Seconds in which a request's head must have come; idle connections are closed after as many
        #[arg(long, env = "SPARKV_HEADER_SECONDS", value_name = "SECONDS", value_parser = at_least_one::<NonZeroU32>)]
        header_seconds: Required<NonZeroU32>,
        /// Largest head of a request taken, in bytes
        #[arg(long, env = "SPARKV_HEADER_LIMIT", value_name = "BYTES", value_parser = at_least_one::<NonZeroUsize>)]
        header_limit: Required<NonZeroUsize>,
        /// Largest request body taken, in bytes
        #[arg(long, env = "SPARKV_BODY_LIMIT", value_name = "BYTES")]
        body_limit: Required<usize>,
        /// What becomes of fields of requests that nobody knows: refuse them, or warn in the log and go on
        #[arg(long, env = "SPARKV_UNKNOWN_FIELDS", value_name = "refuse|warn", hide_possible_values = true)]
        unknown_fields: Required<UnknownFieldsOption>,
        /// Seconds for which requests are still taken when told to stop, while /ready says no already
        #[arg(long, env = "SPARKV_DRAIN_DELAY_SECONDS", value_name = "SECONDS")]
        drain_delay_seconds: Required<u32>,
        /// Seconds that running requests get to finish after that
        #[arg(long, env = "SPARKV_DRAIN_SECONDS", value_name = "SECONDS")]
        drain_seconds: Required<u32>,
        /// Let /health fail, as /ready does, while the model is loaded and from SIGTERM on
        #[arg(long, env = "SPARKV_HEALTH_FOLLOWS_READY", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        health_follows_ready: Required<bool>,
        /// Let /metrics be read without a key
        #[arg(long, env = "SPARKV_METRICS_OPEN", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        metrics_open: Required<bool>,
        /// How the log is written: text or json, an object a line
        #[arg(long, env = "SPARKV_LOG_FORMAT", value_name = "FORMAT")]
        log_format: Required<LogFormat>,
    }
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

/// What becomes of fields of requests that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnknownFieldsOption {
    /// They are refused
    Refuse,
    /// They are ignored; the log names them
    Warn,
}

impl From<UnknownFieldsOption> for UnknownFields {
    fn from(option: UnknownFieldsOption) -> Self {
        match option {
            UnknownFieldsOption::Refuse => Self::Refuse,
            UnknownFieldsOption::Warn => Self::Warn,
        }
    }
}

section! {
    /// How answers are generated where a request does not say.
    #[heading = "Generation"]
    GenerationOptions, GenerationSettings {
        /// Most tokens of an answer
        #[arg(long, env = "SPARKV_MAX_TOKENS", value_name = "N", value_parser = at_least_one::<NonZeroUsize>)]
        max_tokens: Required<NonZeroUsize>,
        /// 0 takes the likeliest token; higher is more varied; left out: as the model's files advise
        /// (generation_config.json, general.sampling.*), else 0.8
        #[arg(long, env = "SPARKV_TEMPERATURE", value_name = "T", allow_negative_numbers = true, value_parser = number)]
        temperature: Optional<f64>,
        /// Fewest likeliest tokens whose probabilities reach this; left out: as the model's files advise, else 0.95
        #[arg(long, env = "SPARKV_TOP_P", value_name = "P", allow_negative_numbers = true, value_parser = number)]
        top_p: Optional<f64>,
        /// Number of likeliest tokens, 0 for all; left out: as the model's files advise, else 40
        #[arg(long, env = "SPARKV_TOP_K", value_name = "N")]
        top_k: Optional<usize>,
        /// Least share of the likeliest token's probability; left out: as the model's files advise, else 0.05
        #[arg(long, env = "SPARKV_MIN_P", value_name = "P", allow_negative_numbers = true, value_parser = number)]
        min_p: Optional<f64>,
        /// Makes tokens of the prompt and the answer less likely to come again, above 1; left out: as the model's files
        /// advise, else 1
        #[arg(long, env = "SPARKV_REPETITION_PENALTY", value_name = "X", allow_negative_numbers = true, value_parser = number)]
        repetition_penalty: Optional<f64>,
        /// Makes tokens that were generated less likely to come again, between -2 and 2
        #[arg(long, env = "SPARKV_PRESENCE_PENALTY", value_name = "X", allow_negative_numbers = true, value_parser = number)]
        presence_penalty: Required<f64>,
        /// The same, for each time they were
        #[arg(long, env = "SPARKV_FREQUENCY_PENALTY", value_name = "X", allow_negative_numbers = true, value_parser = number)]
        frequency_penalty: Required<f64>,
        /// End an answer that says the same line, or up to 128 tokens, so many times in a row, 2 or more; 0 lets it
        #[arg(long, env = "SPARKV_STOP_REPETITION", value_name = "TIMES")]
        stop_repetition: Required<usize>,
    }
}

section! {
    /// How `sparkv run` and `sparkv chat` answer.
    #[heading = "Answer"]
    RunOptions, RunSettings {
        /// Makes a temperature above 0 repeatable (at most 2^63 - 1: TOML's integers are signed); left out: it is not
        #[arg(long, env = "SPARKV_SEED", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
        seed: Optional<u64>,
        /// Text that ends the answer and is no part of it; may be given again; left out: none
        #[arg(long, env = "SPARKV_STOP", value_name = "TEXT")]
        #[serde(default, deserialize_with = "one_or_several")]
        stop: Optional<Vec<String>>,
        /// System prompt; left out: none, or the chat template's own
        #[arg(long, env = "SPARKV_SYSTEM", value_name = "TEXT")]
        system: Optional<String>,
        /// Go on past the model's end of text
        #[arg(long, env = "SPARKV_IGNORE_EOS", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        ignore_eos: Required<bool>,
        /// Complete the text as it is, without the chat template (as is always done if the model has none)
        #[arg(long, env = "SPARKV_RAW", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        raw: Required<bool>,
        /// Print one JSON object: text, token_ids, finish_reason, usage, timings
        #[arg(long, env = "SPARKV_JSON", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        json: Required<bool>,
    }
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

/// A whole number of at least 1.
fn at_least_one<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "must be a whole number of at least 1".to_owned())
}

/// A number.
fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "must be a number".to_owned())
}

/// A preset's name, settings as JSON, or a budget.
pub(crate) fn parse_kv(text: &str) -> Result<KvOptions, String> {
    if let Ok(budget) = text.parse() {
        return Ok(KvOptions { budget: Some(budget), ..KvOptions::default() });
    }
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else if text.is_empty() {
        Err("a preset's name or a JSON object is expected".to_owned())
    } else {
        Ok(KvOptions { preset: Some(text.to_owned()), ..KvOptions::default() })
    }
}
