//! Fields of the OpenAI API, and of common extensions, that are known but not supported.
//!
//! Clients fill in defaults, so a field is accepted where its value changes nothing; anything else is refused
//! with a reason, because an answer that ignores what was asked is worse than none.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Whether a value changes nothing. (Null never does and is not asked.)
type Neutral = fn(&Value) -> bool;

/// When a field is neutral, and why it is refused otherwise.
pub(crate) type Rule = (Neutral, &'static str);

/// Refuses what is left of an object below `path` (empty at the top), unless it is neutral by `rules`.
///
/// # Errors
/// [`ApiError::Unsupported`] for fields that `rules` knows, [`ApiError::UnknownField`] for others.
pub(crate) fn refuse(
    rest: &Map<String, Value>,
    path: &str,
    rules: fn(&str) -> Option<Rule>,
) -> Result<(), ApiError> {
    for (name, value) in rest {
        let param = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match rules(name) {
            Some((neutral, _)) if value.is_null() || neutral(value) => {}
            Some((_, reason)) => return Err(ApiError::unsupported(param, reason)),
            None => return Err(ApiError::UnknownField { param }),
        }
    }
    Ok(())
}

/// Fields of both /v1/chat/completions and /v1/completions.
fn generation(field: &str) -> Option<Rule> {
    Some(match field {
        "grammar" => (never, "GBNF is not read; see response_format for what is"),
        "best_of" => (is_one, "answers are not ranked; ask for n"),
        "use_beam_search" => (is_false, "beams are not searched"),
        "metadata" => (is_empty, "answers are not stored"),
        // Says who asks, for operators who count; it changes no answer, and nothing is kept of it.
        "user" => (Value::is_string, "must be a string"),
        "store" => (is_false, "answers are not stored"),
        "service_tier" => (is_default_tier, "there is one tier"),
        "prompt_cache_key" => (never, "there is no prompt cache"),
        "safety_identifier" => (never, "nobody reads it"),
        _ => return None,
    })
}

/// Fields of /v1/chat/completions.
pub(crate) fn chat(field: &str) -> Option<Rule> {
    Some(match field {
        "functions" => (is_empty, "its successor is tools"),
        "function_call" => (is_none, "its successor is tool_choice"),
        "modalities" => (is_text_modality, "the model reads and writes text only"),
        "audio" => (never, "the model reads and writes text only"),
        "prediction" => (never, "predicted outputs are not implemented"),
        "reasoning_effort" | "verbosity" => (never, "the model has no such setting"),
        "web_search_options" => (never, "there is no web search"),
        "chat_template" => (never, "the model's own template is used"),
        "documents" => (is_empty, "documents are not told apart from messages"),
        _ => return generation(field),
    })
}

/// Fields of /v1/completions.
pub(crate) fn completions(field: &str) -> Option<Rule> {
    Some(match field {
        "suffix" => (is_empty, "inserting is not implemented"),
        _ => return generation(field),
    })
}

/// Fields of a chat message. Answers of this API, sent back as history, carry them empty.
pub(crate) fn message(field: &str) -> Option<Rule> {
    Some(match field {
        "annotations" => (is_empty, "answers have none"),
        "function_call" => (never, "its successor is tool_calls"),
        "refusal" => (never, "refusals are not told apart from content"),
        "audio" => (never, "the model reads and writes text only"),
        "reasoning_content" | "reasoning" => (is_empty, "the model has no reasoning channel"),
        _ => return None,
    })
}

/// Fields of a call in a message.
pub(crate) fn tool_call(field: &str) -> Option<Rule> {
    // Clients that put the pieces of a stream together may leave it in.
    (field == "index").then_some((Value::is_u64, "must be an integer"))
}

/// Fields of `stream_options`.
pub(crate) fn stream_options(field: &str) -> Option<Rule> {
    match field {
        "include_obfuscation" => Some((is_false, "chunks are not padded")),
        "continuous_usage_stats" => Some((is_false, "usage comes once, in the last chunk")),
        _ => None,
    }
}

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    value == false
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_none(value: &Value) -> bool {
    value == "none"
}

fn is_default_tier(value: &Value) -> bool {
    value == "auto" || value == "default"
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_text_modality(value: &Value) -> bool {
    value == &serde_json::json!(["text"])
}
