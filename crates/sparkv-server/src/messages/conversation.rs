//! Checks of messages that consist of blocks, and of the tools that they may call.

use serde_json::Value;
use sparkv_engine::{Chat, ChatMessage, Tool, ToolCall, Turn};

use crate::conversation::tools::{self, Mode};
use crate::conversation::types::FunctionBody;
use crate::conversation::{self, Conversation, PartKinds};
use crate::error::ApiError;
use crate::http::body::read_value;
use crate::messages::PROMPT;
use crate::messages::types::{ConversationFields, Message, ToolBody, ToolChoice, ToolResult, ToolUse};
use crate::refusals::Refusals;
use crate::unsupported;

const PARTS: PartKinds = PartKinds { text: &["text"], rules: unsupported::block };

/// Checks a conversation.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn check(fields: ConversationFields, refusals: &mut Refusals) -> Result<Conversation, ApiError> {
    let ConversationFields { messages: bodies, system, tools, tool_choice } = fields;
    let mut messages = Vec::new();
    let system =
        system.map(|system| conversation::text_of("system", system, &PARTS, refusals)).transpose()?;
    messages.extend(system.filter(|text| !text.is_empty()).map(|text| ChatMessage::new("system", text)));
    let bodies = bodies.unwrap_or_default();
    if bodies.is_empty() {
        return Err(ApiError::invalid(PROMPT, "a conversation has one or more messages"));
    }
    let last = format!("{PROMPT}[{}].content", bodies.len() - 1);
    for (index, body) in bodies.into_iter().enumerate() {
        let message = check_message(&format!("{PROMPT}[{index}]"), body, &mut messages, refusals);
        refusals.note(message);
    }
    let next = check_turn(&last, messages.last())?;
    let offered = check_tools(tools.unwrap_or_default(), refusals)?;
    let choice = check_choice(tool_choice, &offered, refusals)?;
    Ok(Conversation::new(Chat { messages, next, ..Chat::default() }, offered, choice))
}

/// Who ends with words of the assistant wants the rest of them.
fn check_turn(path: &str, last: Option<&ChatMessage>) -> Result<Turn, ApiError> {
    match last {
        Some(last) if last.role == "assistant" => {
            let text = &last.content;
            let wrong = if !last.tool_calls.is_empty() {
                "calls of tools are followed by their results"
            } else if text.trim().is_empty() {
                "a message that is to be continued has text"
            } else if text.trim_end() != text {
                "a message that is to be continued cannot end with white space"
            } else {
                return Ok(Turn::Continue);
            };
            Err(ApiError::invalid(path, wrong))
        }
        _ => Ok(Turn::Answer),
    }
}

fn check_message(
    path: &str,
    body: Message,
    messages: &mut Vec<ChatMessage>,
    refusals: &mut Refusals,
) -> Result<(), ApiError> {
    let Message { role, content, rest } = body;
    let role = match role.as_deref() {
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some(_) => return Err(ApiError::invalid(format!("{path}.role"), "must be user or assistant")),
        None => return Err(ApiError::invalid(format!("{path}.role"), "a message has a role")),
    };
    refusals.rest(&rest, path, |_| None);
    let path = format!("{path}.content");
    match content {
        Some(Value::String(text)) => say(role, text, messages),
        Some(Value::Array(blocks)) if !blocks.is_empty() => {
            for (index, block) in blocks.into_iter().enumerate() {
                let block = check_block(&format!("{path}[{index}]"), role, block, messages, refusals);
                refusals.note(block);
            }
        }
        None => return Err(ApiError::invalid(path, "a message has content")),
        Some(_) => return Err(ApiError::invalid(path, "must be a text, or a list of one or more blocks")),
    }
    Ok(())
}

/// Goes on with the last turn if it is the same speaker's, as Anthropic has it.
fn say(role: &str, text: String, messages: &mut Vec<ChatMessage>) {
    match messages.last_mut() {
        Some(last) if last.role == role => {
            if !last.content.is_empty() && !text.is_empty() {
                last.content.push_str(conversation::BETWEEN_PARTS);
            }
            last.content.push_str(&text);
        }
        _ => messages.push(ChatMessage::new(role, text)),
    }
}

fn check_block(
    path: &str,
    role: &str,
    block: Value,
    messages: &mut Vec<ChatMessage>,
    refusals: &mut Refusals,
) -> Result<(), ApiError> {
    let kind = match block.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err(ApiError::invalid(format!("{path}.type"), "a block is an object that has a type")),
    };
    match (kind.as_str(), role) {
        ("text", _) => {
            let text = conversation::check_part(path, read_value(path, block)?, &PARTS, refusals)?;
            say(role, text, messages);
        }
        ("tool_use", "assistant") => {
            let ToolUse { id, name, input, rest } = read_value(path, without_type(block))?;
            refusals.rest(&rest, path, unsupported::block);
            say(role, String::new(), messages);
            let call = ToolCall { id, name, arguments: Value::Object(input) };
            if let Some(last) = messages.last_mut() {
                last.tool_calls.push(call);
            }
        }
        ("tool_result", "user") => {
            let result = check_result(path, read_value(path, without_type(block))?, messages, refusals)?;
            messages.push(result);
        }
        ("tool_use", _) => {
            return Err(ApiError::invalid(format!("{path}.type"), "only the assistant calls tools"));
        }
        ("tool_result", _) => {
            return Err(ApiError::invalid(format!("{path}.type"), "results of calls come from the user"));
        }
        // What another model thought says nothing to this one.
        ("thinking" | "redacted_thinking", _) => say(role, String::new(), messages),
        _ => {
            let reason = "the model reads text, tool_use and tool_result only";
            return Err(ApiError::unsupported(format!("{path}.type"), reason));
        }
    }
    Ok(())
}

/// The fields of a block of a known type.
fn without_type(mut block: Value) -> Value {
    block.as_object_mut().map(|fields| fields.remove("type"));
    block
}

/// A call's result. Templates have no mark for failures, so that they are told in words.
fn check_result(
    path: &str,
    block: ToolResult,
    messages: &[ChatMessage],
    refusals: &mut Refusals,
) -> Result<ChatMessage, ApiError> {
    let ToolResult { tool_use_id, content, is_error, rest } = block;
    refusals.rest(&rest, path, unsupported::block);
    let name = conversation::called(messages, &format!("{path}.tool_use_id"), &tool_use_id)?;
    let content =
        content.map(|content| conversation::text_of(&format!("{path}.content"), content, &PARTS, refusals));
    let mut content = content.transpose()?.unwrap_or_default();
    if is_error.unwrap_or(false) {
        content.insert_str(0, "Error: ");
    }
    Ok(ChatMessage { tool_call_id: Some(tool_use_id), name: Some(name), ..ChatMessage::new("tool", content) })
}

fn check_tools(tools: Vec<ToolBody>, refusals: &mut Refusals) -> Result<Vec<Tool>, ApiError> {
    tools::check_each(tools, |path, tool| {
        let ToolBody { kind, name, description, input_schema, strict, rest } = tool;
        if kind.is_some_and(|kind| kind != "custom") {
            return Err(ApiError::unsupported(format!("{path}.type"), "tools are run by clients only"));
        }
        refusals.rest(&rest, &path, unsupported::tool);
        let name = name.ok_or_else(|| ApiError::invalid(format!("{path}.name"), "a tool has a name"))?;
        if input_schema.is_none() {
            return Err(ApiError::invalid(format!("{path}.input_schema"), "a tool has a schema"));
        }
        Ok((path, FunctionBody { name, description, parameters: input_schema, strict }))
    })
}

fn check_choice(
    choice: Option<ToolChoice>,
    tools: &[Tool],
    refusals: &mut Refusals,
) -> Result<tools::Choice, ApiError> {
    const PARAM: &str = "tool_choice";
    const NAME: &str = "tool_choice.name";
    let Some(ToolChoice { kind, name, disable_parallel_tool_use, rest }) = choice else {
        return tools::choose(Mode::Maybe, NAME, None, tools);
    };
    refusals.rest(&rest, PARAM, |_| None);
    let mode = match (kind.as_str(), name) {
        ("tool", Some(name)) => Mode::Only(name),
        ("tool", None) => return Err(ApiError::invalid(NAME, "a tool has a name")),
        (_, Some(_)) => return Err(ApiError::invalid(NAME, "only allowed with the type tool")),
        ("none", None) => Mode::Never,
        ("auto", None) => Mode::Maybe,
        ("any", None) => Mode::Any,
        _ => return Err(ApiError::invalid("tool_choice.type", "must be auto, any, tool or none")),
    };
    tools::choose(mode, NAME, disable_parallel_tool_use.map(|disable| !disable), tools)
}
