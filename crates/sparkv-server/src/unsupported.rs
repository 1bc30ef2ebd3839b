//! Fields of the OpenAI and Anthropic APIs, and of common extensions, that are known but not supported.
//!
//! Clients fill in defaults, so a field is accepted where its value changes nothing; anything else is refused
//! with a reason, because an answer that ignores what was asked is worse than none.

use serde_json::{Value, json};

/// Whether a value changes nothing. (Null never does and is not asked.)
type Neutral = fn(&Value) -> bool;

/// When a field is neutral, and why it is refused otherwise.
pub(crate) type Rule = (Neutral, &'static str);

/// What says who asks, what for, how hard to think, or what to keep: no answer of this server depends on it.
fn hint(field: &str) -> Option<Rule> {
    Some(match field {
        "user" | "prompt_cache_key" | "safety_identifier" | "request_id" | "rid" | "service_tier" => {
            (Value::is_string, "must be a string")
        }
        "reasoning_effort" | "verbosity" => (Value::is_string, "must be a string"),
        "metadata" | "reasoning" | "thinking" | "prediction" | "prompt_cache_options" => {
            (Value::is_object, "must be an object")
        }
        "store" | "cache_prompt" | "include_reasoning" | "separate_reasoning" | "stream_reasoning" => {
            (Value::is_boolean, "must be true or false")
        }
        "include" => (Value::is_array, "must be an array"),
        "context_management" | "cache_control" | "prompt_cache_retention" => (always, ""),
        _ => return None,
    })
}

/// What other servers' requests have for sampling, with the values that mean nothing of it.
fn other_samplers(field: &str) -> Option<Rule> {
    Some(match field {
        "best_of" | "beam_width" | "num_beams" => (is_one, "answers are not ranked; ask for n"),
        "use_beam_search" | "early_stopping" => (is_false, "beams are not searched"),
        "length_penalty" => (is_one, "beams are not searched"),
        "repeat_penalty" => (is_one, "its name is repetition_penalty here"),
        "typical_p" | "tfs_z" | "dynatemp_exponent" => (is_one, "this sampler is not implemented"),
        "top_a" | "mirostat" | "dry_multiplier" | "xtc_probability" | "dynatemp_range" | "top_n_sigma" => {
            (is_off, "this sampler is not implemented")
        }
        // They matter only where their samplers are on.
        "mirostat_tau" | "mirostat_eta" | "mirostat_lr" | "mirostat_ent" | "dry_base"
        | "dry_allowed_length" | "dry_penalty_last_n" | "xtc_threshold" | "repeat_last_n" | "min_keep" => {
            (Value::is_number, "must be a number")
        }
        "bad_words" | "logits_processors" | "dry_sequence_breakers" => (is_empty, "use logit_bias or stop"),
        "allowed_token_ids" => (is_empty, "use logit_bias or a format"),
        _ => return None,
    })
}

/// What other servers' requests have beside that, with the values that mean what is done anyway.
fn other_servers(field: &str) -> Option<Rule> {
    Some(match field {
        "priority" => (is_off, "requests are served in the order in which they came"),
        "skip_special_tokens" => (is_true, "special tokens are no part of answers"),
        // Only where special tokens are part of answers does it matter.
        "spaces_between_special_tokens" | "detokenize" => (is_true, "answers are text"),
        "include_stop_str_in_output" | "no_stop_trim" => (is_false, "what ends an answer is no part of it"),
        "return_hidden_states" => (is_false, "hidden states are not kept"),
        "return_token_ids" | "return_tokens_as_token_ids" | "return_tokens" => {
            (is_false, "answers are text; /tokenize gives its tokens")
        }
        "return_meta_info" | "return_progress" | "timings_per_token" | "return_prompt_logprobs" => {
            (is_false, "usage and timings come with the answer and in /metrics")
        }
        "truncate_prompt_tokens" => (is_minus_one, "a prompt is answered as a whole or refused"),
        "lora_path" | "adapter_id" | "lora" => (is_empty, "one model is served, without adapters"),
        "mm_processor_kwargs" | "vllm_xargs" | "kv_transfer_params" | "custom_params" | "session_params" => {
            (is_empty, "it has no meaning here")
        }
        "guided_decoding_backend" => (Value::is_string, "must be a string"),
        "guided_whitespace_pattern" | "whitespace_pattern" => (is_empty, "there is one form of white space"),
        "regex" | "ebnf" | "json_schema" | "structural_tag" | "stop_regex" => {
            (is_empty, "see response_format and structured_outputs for formats, stop for ends")
        }
        "grammar" => (is_empty, "GBNF is not read; see response_format for what is"),
        _ => return None,
    })
}

/// Fields of both /v1/chat/completions and /v1/completions.
fn generation(field: &str) -> Option<Rule> {
    hint(field).or_else(|| other_samplers(field)).or_else(|| other_servers(field))
}

/// Fields of /v1/chat/completions.
pub(crate) fn chat(field: &str) -> Option<Rule> {
    Some(match field {
        "functions" => (is_empty, "its successor is tools"),
        "function_call" => (is_none, "its successor is tool_choice"),
        "modalities" => (is_text_modality, "the model reads and writes text only"),
        "audio" => (never, "the model reads and writes text only"),
        "web_search_options" => (never, "there is no web search"),
        "chat_template" => (never, "the model's own template is used"),
        "documents" => (is_empty, "documents are not told apart from messages"),
        "echo" => (is_false, "completions have it"),
        // The template writes them, whatever is said here.
        "add_special_tokens" => (Value::is_boolean, "must be true or false"),
        "chat_template_content_format" => (Value::is_string, "must be a string"),
        _ => return generation(field),
    })
}

/// Fields of /v1/completions.
pub(crate) fn completions(field: &str) -> Option<Rule> {
    Some(match field {
        "suffix" => (is_empty, "inserting is not implemented"),
        "add_special_tokens" => (is_true, "a prompt without them is sent as tokens, from /tokenize"),
        _ => return generation(field),
    })
}

/// Fields of /tokenize.
pub(crate) fn tokenize(field: &str) -> Option<Rule> {
    (field == "parse_special").then_some((is_true, "what spells a special token in a text is that token"))
}

/// Fields of a chat message. Answers of any server, sent back as history, carry them.
pub(crate) fn message(field: &str) -> Option<Rule> {
    Some(match field {
        "annotations"
        | "parsed"
        | "provider_specific_fields"
        | "reasoning_details"
        | "thinking_blocks"
        | "images"
        | "id"
        | "metadata"
        | "cache_control"
        | "prefix" => (always, ""),
        // Ours and those of vLLM before go by the other name.
        "reasoning" => (always, ""),
        "function_call" => (never, "its successor is tool_calls"),
        "audio" => (never, "the model reads and writes text only"),
        _ => return None,
    })
}

/// Fields of a text part of a chat message.
pub(crate) fn part(field: &str) -> Option<Rule> {
    Some(match field {
        // Prefixes are kept wherever they end: a mark changes nothing.
        "cache_control" | "annotations" | "id" | "prompt_cache_breakpoint" => (always, ""),
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
        "truncation" => (is_disabled, "a conversation is answered as a whole or refused"),
        "prompt" => (never, "prompts are not stored"),
        "moderation" => (never, "answers are not moderated"),
        "max_tool_calls" => (Value::is_u64, "must be an integer: tools are called by clients"),
        "messages" => (never, "conversations are sent as input"),
        // Those of chats, by their names there; metadata and user are honoured here.
        "metadata" | "user" | "include" => return None,
        _ => return generation(field),
    })
}

/// Fields of `text`.
pub(crate) fn text(field: &str) -> Option<Rule> {
    (field == "verbosity").then_some((Value::is_string, "must be a string"))
}

/// Fields of an item of /v1/responses. Answers, sent back as history, carry them.
pub(crate) fn item(field: &str) -> Option<Rule> {
    Some(match field {
        "id" | "status" | "phase" | "parsed" | "parsed_arguments" | "created_by" | "agent" => (always, ""),
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
        // Of an answer that was asked for them, or that a client parsed.
        "logprobs" => (Value::is_array, "must be an array"),
        "parsed" => (always, ""),
        _ => return part(field),
    })
}

/// Fields of /v1/messages.
pub(crate) fn messages(field: &str) -> Option<Rule> {
    Some(match field {
        "metadata" => (Value::is_object, "must be an object"),
        "container" => (never, "there are no containers"),
        "mcp_servers" => (is_empty, "tools are called by clients"),
        "output_config" => (is_effort, "formats are had at /v1/responses and /v1/chat/completions"),
        "output_format" => (never, "formats are had at /v1/responses and /v1/chat/completions"),
        "speed" | "inference_geo" => (Value::is_string, "must be a string"),
        "user_profile_id" | "workspace_id" => (Value::is_string, "must be a string"),
        "diagnostics" => (Value::is_object, "must be an object"),
        "service_tier" | "thinking" | "cache_control" | "context_management" => {
            return hint(field);
        }
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

/// Fields of a block of /v1/messages. Answers, sent back as history, carry some of them.
pub(crate) fn block(field: &str) -> Option<Rule> {
    Some(match field {
        "citations" => (always, ""),
        "toolset_name" => (never, "there are no sets of tools"),
        "caller" => (is_direct, "tools are called by the model itself"),
        _ => return part(field),
    })
}

/// Fields of a tool of /v1/messages.
pub(crate) fn tool(field: &str) -> Option<Rule> {
    Some(match field {
        "input_examples" => (is_empty, "put them into the description"),
        "defer_loading" => (is_false, "all tools are told to the model"),
        // Arguments are sent as they arise, which is all that it can ask for.
        "eager_input_streaming" => (Value::is_boolean, "must be true or false"),
        "allowed_callers" => (is_direct_only, "tools are called by the model itself"),
        _ => return part(field),
    })
}

/// Fields of `stream_options`.
pub(crate) fn stream_options(field: &str) -> Option<Rule> {
    match field {
        "include_obfuscation" => Some((is_false, "chunks are not padded")),
        _ => None,
    }
}

fn always(_: &Value) -> bool {
    true
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

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_minus_one(value: &Value) -> bool {
    value.as_f64() == Some(-1.0)
}

/// Zero, or what means the same.
fn is_off(value: &Value) -> bool {
    value.as_f64() == Some(0.0) || value == false
}

fn is_none(value: &Value) -> bool {
    value == "none"
}

fn is_disabled(value: &Value) -> bool {
    value == "disabled"
}

fn is_direct(value: &Value) -> bool {
    value == &json!({ "type": "direct" })
}

fn is_direct_only(value: &Value) -> bool {
    value == &json!(["direct"])
}

/// Says nothing but how hard to think.
fn is_effort(value: &Value) -> bool {
    let is_neutral = |(name, value): (&String, &Value)| name == "effort" || value.is_null();
    value.as_object().is_some_and(|fields| fields.iter().all(is_neutral))
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
