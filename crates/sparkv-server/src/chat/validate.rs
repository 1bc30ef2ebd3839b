//! Checks of a conversation.

use sparkv_engine::{ChatMessage, Prompt};

use crate::app::App;
use crate::chat::PROMPT;
use crate::chat::types::{ChatBody, Content, Message, Part};
use crate::common;
use crate::common::validate::{Asked, Checked};
use crate::error::ApiError;
use crate::unsupported;

/// Checks a body and makes the engine's request of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(body: ChatBody, app: &App) -> Result<Checked, ApiError> {
    let ChatBody { messages, generation, rest } = body;
    unsupported::refuse(&rest, "", unsupported::chat)?;
    let messages = messages.ok_or_else(|| ApiError::invalid(PROMPT, "a conversation is required"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid(PROMPT, "a conversation has one or more messages"));
    }
    let messages = messages.into_iter().enumerate().map(|(index, message)| check_message(index, message));
    let prompt = Prompt::Chat(messages.collect::<Result<_, _>>()?);
    let asked = Asked { prompt, prompt_param: PROMPT, default_max_tokens: None };
    common::validate::validate(generation, asked, app)
}

fn check_message(index: usize, message: Message) -> Result<ChatMessage, ApiError> {
    let path = format!("{PROMPT}[{index}]");
    let Message { role, content, rest } = message;
    let role = check_role(&format!("{path}.role"), role.as_deref())?;
    unsupported::refuse(&rest, &path, unsupported::message)?;
    let content = match content {
        None => return Err(ApiError::invalid(format!("{path}.content"), "a message has content")),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let texts = parts.into_iter().enumerate();
            texts
                .map(|(i, part)| check_part(&format!("{path}.content[{i}]"), part))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(ChatMessage { role: role.to_owned(), content })
}

/// The role as chat templates know it.
fn check_role(param: &str, role: Option<&str>) -> Result<&'static str, ApiError> {
    match role {
        // The newer name of the same role.
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool" | "function") => Err(ApiError::unsupported(param, "tool calling is not implemented")),
        Some(role) => {
            let message = format!("unknown role `{role}`; there are system, developer, user and assistant");
            Err(ApiError::invalid(param, message))
        }
        None => Err(ApiError::invalid(param, "a message has a role")),
    }
}

fn check_part(path: &str, part: Part) -> Result<String, ApiError> {
    let Part { kind, text, rest } = part;
    if kind != "text" {
        return Err(ApiError::unsupported(format!("{path}.type"), "the model reads text parts only"));
    }
    unsupported::refuse(&rest, path, |_| None)?;
    text.ok_or_else(|| ApiError::invalid(format!("{path}.text"), "a text part has a text"))
}
