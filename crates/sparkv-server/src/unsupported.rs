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
        "presence_penalty" | "frequency_penalty" => (is_zero, "penalties are not implemented"),
        "repetition_penalty" => (is_one, "penalties are not implemented"),
        "logit_bias" => (is_empty, "logit bias is not implemented"),
        "stop_token_ids" => (is_empty, "stop takes strings only"),
        "min_tokens" => (is_zero, "a least number of tokens is not implemented"),
        "guided_json" | "guided_regex" | "guided_choice" | "guided_grammar" | "grammar" => {
            (never, "constrained output is not implemented")
        }
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
        "tools" | "functions" => (is_empty, "tool calling is not implemented"),
        "tool_choice" | "function_call" => (is_none, "tool calling is not implemented"),
        "parallel_tool_calls" => (Value::is_boolean, "tool calling is not implemented"),
        "response_format" => (is_text_format, "only {\"type\": \"text\"} is implemented"),
        "logprobs" => (is_false, "log probabilities are not implemented"),
        "top_logprobs" => (is_zero, "log probabilities are not implemented"),
        "modalities" => (is_text_modality, "the model reads and writes text only"),
        "audio" => (never, "the model reads and writes text only"),
        "prediction" => (never, "predicted outputs are not implemented"),
        "reasoning_effort" | "verbosity" => (never, "the model has no such setting"),
        "web_search_options" => (never, "there is no web search"),
        "chat_template" => (never, "the model's own template is used"),
        "chat_template_kwargs" => (is_empty, "template arguments are not implemented"),
        "add_generation_prompt" => (is_true, "an answer is always asked for"),
        "continue_final_message" => (is_false, "an answer is always a new message"),
        _ => return generation(field),
    })
}

/// Fields of /v1/completions.
pub(crate) fn completions(field: &str) -> Option<Rule> {
    Some(match field {
        "echo" => (is_false, "the prompt is not repeated in the answer"),
        "suffix" => (is_empty, "inserting is not implemented"),
        "best_of" => (is_one, "one completion is made per request"),
        "logprobs" => (never, "log probabilities are not implemented"),
        _ => return generation(field),
    })
}

/// Fields of a chat message. Answers of this API, sent back as history, carry them empty.
pub(crate) fn message(field: &str) -> Option<Rule> {
    Some(match field {
        "tool_calls" | "annotations" => (is_empty, "tool calling is not implemented"),
        "tool_call_id" | "function_call" => (never, "tool calling is not implemented"),
        "name" => (never, "chat templates know roles only"),
        "refusal" => (never, "refusals are not told apart from content"),
        "audio" => (never, "the model reads and writes text only"),
        "reasoning_content" | "reasoning" => (is_empty, "the model has no reasoning channel"),
        _ => return None,
    })
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

fn is_true(value: &Value) -> bool {
    value == true
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
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

fn is_text_format(value: &Value) -> bool {
    value == &serde_json::json!({ "type": "text" })
}

fn is_text_modality(value: &Value) -> bool {
    value == &serde_json::json!(["text"])
}
