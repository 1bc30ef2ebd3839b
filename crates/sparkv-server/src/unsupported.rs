//! Fields of the OpenAI and Anthropic APIs, and of common extensions, that are known but not supported.
//!
//! Clients fill in defaults, so a field is accepted where its value changes nothing; anything else is refused
//! with a reason, because an answer that ignores what was asked is worse than none.

use serde_json::{Map, Value, json};

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

/// Fields of /v1/responses.
pub(crate) fn responses(field: &str) -> Option<Rule> {
    Some(match field {
        "previous_response_id" | "conversation" => {
            (never, "answers are not stored; send the whole conversation as input")
        }
        "background" => (is_false, "answers are not stored, so that nobody could fetch one later"),
        "reasoning" => (has_nulls_only, "the model has no reasoning channel"),
        "truncation" => (is_disabled, "a conversation is answered as a whole or refused"),
        "prompt" => (never, "prompts are not stored"),
        "prompt_cache_retention" | "prompt_cache_options" => {
            (never, "prefixes are kept for all requests, as long as there is memory for them")
        }
        "moderation" => (never, "answers are not moderated"),
        "context_management" => (is_empty, "conversations are not shortened"),
        "max_tool_calls" => (never, "tools are called by clients"),
        "messages" => (never, "conversations are sent as input"),
        // Those of chats, by their names there; metadata and user are honoured here.
        "metadata" | "user" => return None,
        _ => return generation(field),
    })
}

/// Fields of `text`.
pub(crate) fn text(field: &str) -> Option<Rule> {
    (field == "verbosity").then_some((never, "the model has no such setting"))
}

/// Fields of an item of /v1/responses. Answers, sent back as history, carry them.
pub(crate) fn item(field: &str) -> Option<Rule> {
    Some(match field {
        "id" | "status" => (Value::is_string, "must be a string"),
        "phase" => (never, "phases of an answer are not told apart"),
        "namespace" => (never, "functions have no namespaces"),
        "caller" => (is_direct, "tools are called by the model itself"),
        _ => return None,
    })
}

/// Fields of a tool of /v1/responses.
pub(crate) fn function(field: &str) -> Option<Rule> {
    Some(match field {
        "defer_loading" => (is_false, "all tools are told to the model"),
        "allowed_callers" => (is_direct_only, "tools are called by the model itself"),
        "output_schema" => (never, "what tools give is read as text"),
        _ => return None,
    })
}

/// Fields of a text part of /v1/responses.
pub(crate) fn output_text(field: &str) -> Option<Rule> {
    Some(match field {
        "annotations" => (is_empty, "answers have none"),
        // Of an answer that was asked for them.
        "logprobs" => (Value::is_array, "must be an array"),
        // Prefixes are kept wherever they end: a mark changes nothing.
        "prompt_cache_breakpoint" => (Value::is_object, "must be an object"),
        _ => return None,
    })
}

/// Fields of /v1/messages.
pub(crate) fn messages(field: &str) -> Option<Rule> {
    Some(match field {
        "cache_control" => CACHE_CONTROL,
        "metadata" => (is_user, "must be an object that has at most a user_id, which is a string"),
        "service_tier" => (is_standard_tier, "there is one tier"),
        "thinking" => (is_disabled_type, "the model has no reasoning channel"),
        "container" => (never, "there are no containers"),
        "mcp_servers" => (is_empty, "tools are called by clients"),
        "context_management" => (is_empty, "conversations are not shortened"),
        "output_config" | "output_format" => (
            has_nulls_only,
            "the model has no effort; formats are had at /v1/responses and /v1/chat/completions",
        ),
        "speed" | "inference_geo" => (never, "there is one model, in one place"),
        "user_profile_id" | "workspace_id" => (never, "there are no accounts"),
        "diagnostics" => (never, "requests are not looked up"),
        _ => return None,
    })
}

/// Fields of /v1/messages/count_tokens beside the conversation.
pub(crate) fn count_tokens(field: &str) -> Option<Rule> {
    match field {
        "cache_control" | "thinking" | "output_config" | "speed" | "user_profile_id" | "workspace_id" => {
            messages(field)
        }
        _ => None,
    }
}

/// Fields of a block of /v1/messages. Answers, sent back as history, carry some of them empty.
pub(crate) fn block(field: &str) -> Option<Rule> {
    Some(match field {
        "cache_control" => CACHE_CONTROL,
        "citations" => (is_empty, "answers have none"),
        "toolset_name" => (never, "there are no sets of tools"),
        "caller" => (is_direct, "tools are called by the model itself"),
        _ => return None,
    })
}

/// Fields of a tool of /v1/messages.
pub(crate) fn tool(field: &str) -> Option<Rule> {
    Some(match field {
        "cache_control" => CACHE_CONTROL,
        "input_examples" => (is_empty, "put them into the description"),
        "defer_loading" => (is_false, "all tools are told to the model"),
        // Arguments are sent as they arise, which is all that it can ask for.
        "eager_input_streaming" => (Value::is_boolean, "must be true or false"),
        "allowed_callers" => (is_direct_only, "tools are called by the model itself"),
        _ => return None,
    })
}

/// Prefixes are kept for all requests, and for as long as there is memory: a mark changes nothing.
const CACHE_CONTROL: Rule = (is_ephemeral, r#"must be {"type": "ephemeral"}, with a ttl of 5m or 1h if any"#);

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

fn is_standard_tier(value: &Value) -> bool {
    value == "auto" || value == "standard_only"
}

fn is_disabled(value: &Value) -> bool {
    value == "disabled"
}

fn is_disabled_type(value: &Value) -> bool {
    value == &json!({ "type": "disabled" })
}

fn is_direct(value: &Value) -> bool {
    value == &json!({ "type": "direct" })
}

fn is_direct_only(value: &Value) -> bool {
    value == &json!(["direct"])
}

fn is_user(value: &Value) -> bool {
    let is_id = |(name, id): (&String, &Value)| name == "user_id" && (id.is_string() || id.is_null());
    value.as_object().is_some_and(|fields| fields.iter().all(is_id))
}

fn is_ephemeral(value: &Value) -> bool {
    let is_right = |(name, value): (&String, &Value)| match name.as_str() {
        "type" => value == "ephemeral",
        "ttl" => value.is_null() || value == "5m" || value == "1h",
        _ => false,
    };
    value.as_object().is_some_and(|fields| fields.contains_key("type") && fields.iter().all(is_right))
}

fn has_nulls_only(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.values().all(Value::is_null))
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
    value == &json!(["text"])
}
