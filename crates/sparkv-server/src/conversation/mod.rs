//! Conversations: their messages and the parts of these, the tools that are offered (`tools`), and what is to come next.
//! Chats, responses and messages have them in forms of their own (that of chats is in `types`), and all of them end here.

pub(crate) mod tools;
pub(crate) mod types;

use serde_json::Value;
use sparkv_engine::{Chat, ChatMessage, ToolCall, Turn};

use self::types::{Content, ContentPart, ConversationFields, MESSAGES, Message, ToolCallBody};
use crate::error::ApiError;
use crate::unsupported::{self, Rule};

/// A conversation that passed the checks.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) chat: Chat,
    pub(crate) choice: tools::Choice,
}

impl Conversation {
    /// A conversation in which tools are offered.
    pub(crate) fn new(mut chat: Chat, tools: Vec<tools::Offered>, choice: tools::Choice) -> Self {
        // A choice of none leaves the tools out of the prompt as well: the model is not to think of them.
        let offered = if choice.mode == tools::Mode::Never { Vec::new() } else { tools };
        chat.tools = offered.into_iter().map(|tool| tool.tool).collect();
        Self { chat, choice }
    }
}

/// Checks a conversation.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn check(fields: ConversationFields) -> Result<Conversation, ApiError> {
    let messages =
        fields.messages.ok_or_else(|| ApiError::invalid(MESSAGES, "a conversation is required"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid(MESSAGES, "a conversation has one or more messages"));
    }
    let messages: Vec<ChatMessage> = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| check_message(&format!("{MESSAGES}[{index}]"), message))
        .collect::<Result<_, _>>()?;
    let next = check_turn(fields.add_generation_prompt, fields.continue_final_message, &messages)?;
    let all = tools::check(fields.tools.unwrap_or_default())?;
    let choice = tools::check_choice(fields.tool_choice, fields.parallel_tool_calls, &all)?;
    let template_args = fields.chat_template_kwargs.unwrap_or_default();
    Ok(Conversation::new(Chat { messages, next, template_args, ..Chat::default() }, all, choice))
}

/// vLLM's two fields; together they say what comes next.
fn check_turn(
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    messages: &[ChatMessage],
) -> Result<Turn, ApiError> {
    match (add_generation_prompt, continue_final_message.unwrap_or(false)) {
        (Some(true), true) => Err(ApiError::invalid(
            "continue_final_message",
            "a message is continued or a new one begun; set add_generation_prompt to false",
        )),
        (None | Some(true), false) => Ok(Turn::Answer),
        (Some(false), false) => Ok(Turn::Open),
        (_, true) if messages.last().is_some_and(|last| !last.content.trim().is_empty()) => {
            Ok(Turn::Continue)
        }
        (_, true) => Err(ApiError::invalid("continue_final_message", "the last message is empty")),
    }
}

fn check_message(path: &str, message: Message) -> Result<ChatMessage, ApiError> {
    let Message { role, content, tool_calls, tool_call_id, name, rest } = message;
    let role = check_role(&format!("{path}.role"), role.as_deref())?;
    unsupported::refuse(&rest, path, unsupported::message)?;
    let calls = tool_calls.unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        return Err(ApiError::invalid(format!("{path}.tool_calls"), "only the assistant calls tools"));
    }
    if tool_call_id.is_some() != (role == "tool") {
        let message = "a message of the role tool says which call it answers, and no other does";
        return Err(ApiError::invalid(format!("{path}.tool_call_id"), message));
    }
    let calls = calls.into_iter().enumerate();
    let tool_calls: Vec<ToolCall> = calls
        .map(|(index, call)| check_call(&format!("{path}.tool_calls[{index}]"), call))
        .collect::<Result<_, _>>()?;
    let content = match content {
        None if tool_calls.is_empty() => {
            return Err(ApiError::invalid(format!("{path}.content"), "a message has content"));
        }
        None => String::new(),
        Some(content) => text_of(&format!("{path}.content"), content, &PARTS)?,
    };
    Ok(ChatMessage { role: role.to_owned(), content, tool_calls, tool_call_id, name })
}

/// The parts that texts of an endpoint have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartKinds {
    /// Types of parts that are text.
    pub(crate) text: &'static [&'static str],
    /// Their fields that change nothing.
    pub(crate) rules: fn(&str) -> Option<Rule>,
    /// What stands between two of them.
    pub(crate) between: &'static str,
}

/// Those of chats.
const PARTS: PartKinds = PartKinds { text: &["text"], rules: |_| None, between: "" };

/// The text of a message, its parts joined.
///
/// # Errors
/// If a part is not text.
pub(crate) fn text_of(path: &str, content: Content, kinds: &PartKinds) -> Result<String, ApiError> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) => {
            let parts = parts.into_iter().enumerate();
            let texts: Vec<String> = parts
                .map(|(index, part)| check_part(&format!("{path}[{index}]"), part, kinds))
                .collect::<Result<_, _>>()?;
            Ok(texts.join(kinds.between))
        }
    }
}

/// The role as chat templates know it.
///
/// # Errors
/// If they do not.
pub(crate) fn check_role(param: &str, role: Option<&str>) -> Result<&'static str, ApiError> {
    match role {
        // The newer name of the same role.
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some("function") => Err(ApiError::unsupported(param, "its successor is the role tool")),
        Some(role) => {
            let message =
                format!("unknown role `{role}`; there are system, developer, user, assistant and tool");
            Err(ApiError::invalid(param, message))
        }
        None => Err(ApiError::invalid(param, "a message has a role")),
    }
}

/// The text of a part.
///
/// # Errors
/// If it is something else.
pub(crate) fn check_part(path: &str, part: ContentPart, kinds: &PartKinds) -> Result<String, ApiError> {
    let ContentPart { kind, text, rest } = part;
    if !kinds.text.contains(&kind.as_str()) {
        return Err(ApiError::unsupported(format!("{path}.type"), "the model reads text parts only"));
    }
    unsupported::refuse(&rest, path, kinds.rules)?;
    text.ok_or_else(|| ApiError::invalid(format!("{path}.text"), "a text part has a text"))
}

fn check_call(path: &str, call: ToolCallBody) -> Result<ToolCall, ApiError> {
    let ToolCallBody { id, kind, function, rest } = call;
    if kind.is_some_and(|kind| kind != "function") {
        return Err(ApiError::unsupported(format!("{path}.type"), "only functions are called"));
    }
    unsupported::refuse(&rest, path, unsupported::tool_call)?;
    let id = id.ok_or_else(|| ApiError::invalid(format!("{path}.id"), "a call has an id"))?;
    let arguments = check_arguments(&format!("{path}.function.arguments"), &function.arguments)?;
    Ok(ToolCall { id, name: function.name, arguments })
}

/// The name of the tool that was called under the id that `param` holds.
///
/// # Errors
/// If none was.
pub(crate) fn called(messages: &[ChatMessage], param: &str, id: &str) -> Result<String, ApiError> {
    let mut calls = messages.iter().rev().flat_map(|message| &message.tool_calls);
    let call = calls.find(|call| call.id == id);
    call.map(|call| call.name.clone()).ok_or_else(|| ApiError::invalid(param, "no call before has this id"))
}

/// The arguments of a call, which history has as JSON.
///
/// # Errors
/// If it is something else.
pub(crate) fn check_arguments(param: &str, arguments: &str) -> Result<Value, ApiError> {
    match serde_json::from_str(arguments) {
        Ok(arguments @ Value::Object(_)) => Ok(arguments),
        // Some clients send nothing for no arguments.
        _ if arguments.trim().is_empty() => Ok(Value::Object(serde_json::Map::new())),
        _ => Err(ApiError::invalid(param, "must be the JSON of an object")),
    }
}
