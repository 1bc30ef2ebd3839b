//! The fields that generating endpoints share, as they come.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use sparkv::KvOptions;
use utoipa::ToSchema;

use crate::http::body::Fields;
use crate::schema::kv_cache;

/// Fields about how to generate.
#[derive(Debug, Default, ToSchema)]
pub(crate) struct GenerationFields {
    /// Name of the model; absent means the one that is served.
    pub(crate) model: Option<String>,
    #[schema(minimum = 0)]
    pub(crate) temperature: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f32>,
    /// -1, as vLLM writes it, and 0 mean off.
    #[schema(minimum = -1)]
    pub(crate) top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_p: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f32>,
    /// vLLM's.
    #[schema(exclusive_minimum = 0)]
    pub(crate) repetition_penalty: Option<f32>,
    /// When an answer that repeats itself ends, with `finish_reason` `length` (vLLM).
    pub(crate) repetition_detection: Option<RepetitionFields>,
    /// Token ids, as strings, and what is added to their logits.
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    /// An integer of 64 bits.
    #[schema(value_type = Option<i64>)]
    pub(crate) seed: Option<Seed>,
    pub(crate) stop: Option<Stop>,
    /// Tokens that end an answer (vLLM).
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    #[schema(minimum = 1)]
    pub(crate) max_tokens: Option<usize>,
    #[schema(minimum = 1)]
    pub(crate) max_completion_tokens: Option<usize>,
    /// Tokens before which an answer cannot end (vLLM).
    pub(crate) min_tokens: Option<usize>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    /// Answers to each prompt.
    #[schema(minimum = 1, maximum = 128)]
    pub(crate) n: Option<usize>,
    /// Go on after an end-of-text token (vLLM).
    pub(crate) ignore_eos: Option<bool>,
    /// Report what the model thinks of the prompt's tokens, with this many of the likeliest in the place of each (vLLM).
    #[schema(maximum = 20)]
    pub(crate) prompt_logprobs: Option<usize>,
    /// The language of the answer.
    #[schema(ignore)]
    pub(crate) formats: FormatFields,
    /// What the KV cache may cost; absent, null and `{}` mean the server's default.
    #[schema(value_type = Option<kv_cache::KvField>)]
    pub(crate) kv_cache: Option<KvOptions>,
    /// Keeps what is kept of the prompt apart from requests with another one (vLLM).
    pub(crate) cache_salt: Option<String>,
}

impl GenerationFields {
    /// Takes these fields out of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            model: fields.take("model"),
            temperature: fields.take("temperature"),
            top_p: fields.take("top_p"),
            top_k: fields.take("top_k"),
            min_p: fields.take("min_p"),
            presence_penalty: fields.take("presence_penalty"),
            frequency_penalty: fields.take("frequency_penalty"),
            repetition_penalty: fields.take("repetition_penalty"),
            repetition_detection: take_repetition(fields),
            logit_bias: fields.take("logit_bias"),
            seed: fields.take("seed"),
            stop: fields.take("stop"),
            stop_token_ids: fields.take("stop_token_ids"),
            max_tokens: fields.take("max_tokens"),
            max_completion_tokens: fields.take("max_completion_tokens"),
            min_tokens: fields.take("min_tokens"),
            stream: fields.take("stream"),
            stream_options: fields.take("stream_options"),
            n: fields.take("n"),
            ignore_eos: fields.take("ignore_eos"),
            prompt_logprobs: fields.take("prompt_logprobs"),
            formats: FormatFields::take(fields),
            kv_cache: take_kv(fields),
            cache_salt: fields.take("cache_salt"),
        }
    }
}

fn take_repetition(fields: &mut Fields) -> Option<RepetitionFields> {
    const FIELD: &str = "repetition_detection";
    fields.check_object(&[FIELD], r#"{"max_pattern_size": 64, "min_count": 4}"#);
    fields.take(FIELD)
}

/// Takes `kv_cache` out of a body: settings, or a preset's name alone.
pub(crate) fn take_kv(fields: &mut Fields) -> Option<KvOptions> {
    const FIELD: &str = "kv_cache";
    if let Some(Value::String(_)) = fields.get(FIELD) {
        return Some(KvOptions { preset: fields.take(FIELD), ..KvOptions::default() });
    }
    fields.check_object(&[FIELD], r#"{"preset": "balanced"}, or a preset's name"#);
    fields.check_object(&[FIELD, "eviction"], r#"{"policy": "snapkv", "keep_ratio": 0.5}"#);
    fields.check_object(&[FIELD, "pruning"], r#"{"key_ratio": 0.5, "value_ratio": 0.5}"#);
    fields.take(FIELD).filter(|options| *options != KvOptions::default())
}

/// The model's name, where nothing is generated.
#[derive(Debug, ToSchema)]
pub(crate) struct ModelField {
    /// Absent means the one that is served.
    pub(crate) model: Option<String>,
}

impl ModelField {
    /// Takes the field out of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self { model: fields.take("model") }
    }
}

/// The ways to ask for a language of the answer: OpenAI's, and vLLM's of now and before.
#[derive(Debug, Default, ToSchema)]
pub(crate) struct FormatFields {
    pub(crate) response_format: Option<Value>,
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<String>,
    pub(crate) guided_choice: Option<Vec<String>>,
    pub(crate) guided_grammar: Option<String>,
}

impl FormatFields {
    fn take(fields: &mut Fields) -> Self {
        Self {
            response_format: fields.take("response_format"),
            structured_outputs: fields.take("structured_outputs"),
            guided_json: fields.take("guided_json"),
            guided_regex: fields.take("guided_regex"),
            guided_choice: fields.take("guided_choice"),
            guided_grammar: fields.take("guided_grammar"),
        }
    }
}

/// vLLM's way to ask for a language: one of these.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object of options")]
pub(crate) struct StructuredOutputs {
    pub(crate) json: Option<Value>,
    pub(crate) regex: Option<String>,
    pub(crate) choice: Option<Vec<String>>,
    /// Lark.
    pub(crate) grammar: Option<String>,
    pub(crate) json_object: Option<bool>,
}

/// Patterns of tokens that end an answer when they come again and again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, expecting = "an object of numbers")]
pub(crate) struct RepetitionFields {
    /// Tokens of the longest pattern; 0 looks for none.
    #[schema(maximum = 1024)]
    pub(crate) max_pattern_size: usize,
    /// Tokens of the shortest; 0 is as 1.
    pub(crate) min_pattern_size: usize,
    /// Times that it must come, one after the other; at least 2.
    pub(crate) min_count: usize,
}

/// Texts that end the answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub(crate) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Any integer of 64 bits.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected an integer of 64 bits")]
pub(crate) enum Seed {
    Unsigned(u64),
    Signed(i64),
}

impl Seed {
    /// As a number; a negative one stands for its two's complement.
    pub(crate) fn get(self) -> u64 {
        match self {
            Self::Unsigned(seed) => seed,
            Self::Signed(seed) => seed.cast_unsigned(),
        }
    }
}

/// How to stream.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object of options")]
pub(crate) struct StreamOptions {
    /// Whether a last chunk reports the usage.
    pub(crate) include_usage: Option<bool>,
    /// Whether all other chunks tell what was used so far, too (vLLM).
    pub(crate) continuous_usage_stats: Option<bool>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}
