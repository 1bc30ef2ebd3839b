//! Checks of a conversation that is given as items.

use serde_json::Value;
use sparkv_engine::{ChatMessage, ToolCall};

use crate::conversation::{self, PartKinds};
use crate::error::ApiError;
use crate::http::body::read_value;
use crate::refusals::Refusals;
use crate::responses::PROMPT;
use crate::responses::types::{CallItem, MessageItem, OutputOfCall};
use crate::unsupported;

/// Texts that are sent, and those of answers that are sent back.
const PARTS: PartKinds =
    PartKinds { text: &["input_text", "output_text", "text"], rules: unsupported::output_text };

/// The messages that items stand for, after those that `instructions` are.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn check(
    instructions: Option<String>,
    input: Option<Value>,
    refusals: &mut Refusals,
) -> Result<Vec<ChatMessage>, ApiError> {
    let instructions = instructions.filter(|text| !text.is_empty());
    let mut messages: Vec<ChatMessage> =
        instructions.into_iter().map(|text| ChatMessage::new("system", text)).collect();
    match input {
        Some(Value::String(text)) => messages.push(ChatMessage::new("user", text)),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, item) in items.into_iter().enumerate() {
                let item = check_item(&format!("{PROMPT}[{index}]"), item, &mut messages, refusals);
                refusals.note(item);
            }
        }
        None => return Err(ApiError::invalid(PROMPT, "a text or a list of items is required")),
        Some(_) => {
            return Err(ApiError::invalid(PROMPT, "must be a text, or a list of one or more items"));
        }
    }
    Ok(messages)
}

fn check_item(
    path: &str,
    item: Value,
    messages: &mut Vec<ChatMessage>,
    refusals: &mut Refusals,
) -> Result<(), ApiError> {
    let Value::Object(mut fields) = item else { return Err(ApiError::invalid(path, "an item is an object")) };
    let kind = match fields.remove("type") {
        None | Some(Value::Null) => "message".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(ApiError::invalid(format!("{path}.type"), "must be a string")),
    };
    let item = Value::Object(fields);
    match kind.as_str() {
        "message" => messages.push(check_message(path, read_value(path, item)?, refusals)?),
        "function_call" => {
            let call = check_call(path, read_value(path, item)?, refusals)?;
            // Items are one turn of the assistant until somebody else speaks.
            match messages.last_mut() {
                Some(last) if last.role == "assistant" => last.tool_calls.push(call),
                _ => {
                    messages.push(ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") })
                }
            }
        }
        "function_call_output" => {
            let output = check_output(path, read_value(path, item)?, messages, refusals)?;
            messages.push(output);
        }
        // What another model thought says nothing to this one.
        "reasoning" => {}
        "item_reference" => {
            return Err(ApiError::unsupported(path, "answers are not stored; send the item itself"));
        }
        _ => {
            let reason = "conversations consist of message, function_call and function_call_output";
            return Err(ApiError::unsupported(format!("{path}.type"), reason));
        }
    }
    Ok(())
}

fn check_message(path: &str, message: MessageItem, refusals: &mut Refusals) -> Result<ChatMessage, ApiError> {
    let MessageItem { role, content, rest } = message;
    let role_path = format!("{path}.role");
    let role = conversation::check_role(&role_path, role.as_deref())?;
    if role == "tool" {
        let message = "what a tool gave is an item of the type function_call_output";
        return Err(ApiError::invalid(role_path, message));
    }
    refusals.rest(&rest, path, unsupported::item);
    let path = format!("{path}.content");
    let content = match content {
        Some(content) => conversation::text_of(&path, content, &PARTS, refusals)?,
        None if role == "assistant" => String::new(),
        None => return Err(ApiError::invalid(path, "a message has content")),
    };
    Ok(ChatMessage::new(role, content))
}

fn check_call(path: &str, call: CallItem, refusals: &mut Refusals) -> Result<ToolCall, ApiError> {
    let CallItem { call_id, name, arguments, rest } = call;
    refusals.rest(&rest, path, unsupported::item);
    let arguments = conversation::check_arguments(&format!("{path}.arguments"), arguments)?;
    Ok(ToolCall { id: call_id, name, arguments })
}

fn check_output(
    path: &str,
    item: OutputOfCall,
    messages: &[ChatMessage],
    refusals: &mut Refusals,
) -> Result<ChatMessage, ApiError> {
    let OutputOfCall { call_id, name: told, output, rest } = item;
    refusals.rest(&rest, path, unsupported::item);
    let name = conversation::called(messages, &format!("{path}.call_id"), &call_id)?;
    if told.is_some_and(|told| told != name) {
        return Err(ApiError::invalid(format!("{path}.name"), "the call with this id has another name"));
    }
    let output = conversation::text_of(&format!("{path}.output"), output, &PARTS, refusals)?;
    Ok(ChatMessage { tool_call_id: Some(call_id), name: Some(name), ..ChatMessage::new("tool", output) })
}
