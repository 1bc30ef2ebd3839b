//! Conversations: their messages and the parts of these, the tools that are offered (`tools`), and what is to come next.
//! Chats, responses and messages have them in forms of their own (that of chats is in `types`), and all of them end here.

pub(crate) mod tools;
pub(crate) mod types;

use serde_json::{Map, Value};
use sparkv_engine::{Chat, ChatMessage, Tool, ToolCall, Turn};

use self::types::{Content, ContentPart, ConversationFields, MESSAGES, Message, ToolCallBody};
use crate::error::ApiError;
use crate::refusals::Refusals;
use crate::unsupported::{self, Rule};

/// A conversation that passed the checks.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) chat: Chat,
    pub(crate) choice: tools::Choice,
}

impl Conversation {
    /// A conversation in which tools are offered.
    pub(crate) fn new(mut chat: Chat, tools: Vec<Tool>, choice: tools::Choice) -> Self {
        // A choice of none leaves the tools out of the prompt as well: the model is not to think of them.
        chat.tools = if choice.mode == tools::Mode::Never { Vec::new() } else { tools };
        Self { chat, choice }
    }
}

/// Checks a conversation.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn check(fields: ConversationFields, refusals: &mut Refusals) -> Result<Conversation, ApiError> {
    let messages =
        fields.messages.ok_or_else(|| ApiError::invalid(MESSAGES, "a conversation is required"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid(MESSAGES, "a conversation has one or more messages"));
    }
    let bodies = messages;
    let mut messages = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        let message = check_message(&format!("{MESSAGES}[{index}]"), body, &messages, refusals);
        messages.extend(refusals.note(message));
    }
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

fn check_message(
    path: &str,
    message: Message,
    before: &[ChatMessage],
    refusals: &mut Refusals,
) -> Result<ChatMessage, ApiError> {
    let Message { role, content, refusal, reasoning_content, tool_calls, tool_call_id, name, rest } = message;
    let role = check_role(&format!("{path}.role"), role.as_deref())?;
    refusals.rest(&rest, path, unsupported::message);
    let calls = tool_calls.unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        return Err(ApiError::invalid(format!("{path}.tool_calls"), "only the assistant calls tools"));
    }
    if tool_call_id.is_some() && role != "tool" {
        let message = "only a message of the role tool says which call it answers";
        return Err(ApiError::invalid(format!("{path}.tool_call_id"), message));
    }
    let so_far = before.iter().map(|message| message.tool_calls.len()).sum::<usize>();
    let calls = calls.into_iter().enumerate();
    let tool_calls: Vec<ToolCall> = calls
        .map(|(index, call)| check_call(&format!("{path}.tool_calls[{index}]"), call, so_far + index))
        .collect::<Result<_, _>>()?;
    let content = match content {
        Some(content) => text_of(&format!("{path}.content"), content, &PARTS, refusals)?,
        // Answers come back as they were, whatever they were.
        None if matches!(role, "assistant" | "tool") => refusal.unwrap_or_default(),
        None => return Err(ApiError::invalid(format!("{path}.content"), "a message has content")),
    };
    let tool_call_id =
        if role == "tool" { tool_call_id.or_else(|| unanswered(before, name.as_deref())) } else { None };
    Ok(ChatMessage { role: role.to_owned(), content, reasoning_content, tool_calls, tool_call_id, name })
}

/// The first call before that has no answer yet, of the tool `name` if there is one.
fn unanswered(before: &[ChatMessage], name: Option<&str>) -> Option<String> {
    let calling = before.iter().rposition(|message| !message.tool_calls.is_empty())?;
    let (calling, answers) = before[calling..].split_first()?;
    let is_open =
        |call: &&ToolCall| !answers.iter().any(|answer| answer.tool_call_id.as_ref() == Some(&call.id));
    let mut open = calling.tool_calls.iter().filter(is_open);
    let named = open.clone().find(|call| Some(call.name.as_str()) == name);
    named.or_else(|| open.next()).map(|call| call.id.clone())
}

/// The parts that texts of an endpoint have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartKinds {
    /// Types of parts that are text.
    pub(crate) text: &'static [&'static str],
    /// Their fields that change nothing.
    pub(crate) rules: fn(&str) -> Option<Rule>,
}

/// Those of chats.
const PARTS: PartKinds = PartKinds { text: &["text"], rules: unsupported::part };

/// What stands between two texts of one message, as llama.cpp's server and vLLM have it.
pub(crate) const BETWEEN_PARTS: &str = "\n";

/// The text of a message, its parts joined.
///
/// # Errors
/// If a part is not text.
pub(crate) fn text_of(
    path: &str,
    content: Content,
    kinds: &PartKinds,
    refusals: &mut Refusals,
) -> Result<String, ApiError> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) => {
            let parts = parts.into_iter().enumerate();
            let texts: Vec<String> = parts
                .map(|(index, part)| check_part(&format!("{path}[{index}]"), part, kinds, refusals))
                .collect::<Result<_, _>>()?;
            Ok(texts.join(BETWEEN_PARTS))
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
pub(crate) fn check_part(
    path: &str,
    part: ContentPart,
    kinds: &PartKinds,
    refusals: &mut Refusals,
) -> Result<String, ApiError> {
    let ContentPart { kind, text, refusal, rest } = part;
    // An answer's refusal, sent back.
    if kind == "refusal" {
        return Ok(refusal.or(text).unwrap_or_default());
    }
    if !kinds.text.contains(&kind.as_str()) {
        return Err(ApiError::unsupported(format!("{path}.type"), "the model reads text parts only"));
    }
    refusals.rest(&rest, path, kinds.rules);
    text.ok_or_else(|| ApiError::invalid(format!("{path}.text"), "a text part has a text"))
}

/// A call; without an id it gets one by its place in the conversation, of a form that all templates take.
fn check_call(path: &str, call: ToolCallBody, place: usize) -> Result<ToolCall, ApiError> {
    let ToolCallBody { id, kind, function } = call;
    if kind.is_some_and(|kind| kind != "function") {
        return Err(ApiError::unsupported(format!("{path}.type"), "only functions are called"));
    }
    let arguments = check_arguments(&format!("{path}.function.arguments"), function.arguments)?;
    let id = id.unwrap_or_else(|| format!("{place:09}"));
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

/// The arguments of a call, which history has as JSON, or as the object itself. Text that is no object was cut off, and
/// stays text.
///
/// # Errors
/// If it is something else.
pub(crate) fn check_arguments(param: &str, arguments: Option<Value>) -> Result<Value, ApiError> {
    match arguments {
        // Some clients send nothing for no arguments.
        None | Some(Value::Null) => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(arguments @ Value::Object(_)) => Ok(arguments),
            _ => Ok(Value::String(text)),
        },
        Some(arguments @ Value::Object(_)) => Ok(arguments),
        Some(_) => Err(ApiError::invalid(param, "must be the JSON of an object, or the object")),
    }
}
