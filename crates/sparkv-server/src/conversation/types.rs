//! Conversations as chats have them; the other endpoints turn theirs into these parts.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::body::Fields;

/// The field that holds a chat's messages.
pub(crate) const MESSAGES: &str = "messages";

/// Fields about what was said, and what may be.
#[derive(Debug, ToSchema)]
pub(crate) struct ConversationFields {
    #[schema(required = true, value_type = Vec<Message>, min_items = 1)]
    pub(crate) messages: Option<Vec<Message>>,
    pub(crate) tools: Option<Vec<ToolBody>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Variables of the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
}

impl ConversationFields {
    /// Takes these fields out of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            messages: fields.take(MESSAGES),
            tools: fields.take("tools"),
            tool_choice: fields.take("tool_choice"),
            parallel_tool_calls: fields.take("parallel_tool_calls"),
            chat_template_kwargs: fields.take("chat_template_kwargs"),
            add_generation_prompt: fields.take("add_generation_prompt"),
            continue_final_message: fields.take("continue_final_message"),
        }
    }
}

/// One message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
#[serde(expecting = "a message, which is an object")]
pub(crate) struct Message {
    #[schema(required = true, value_type = String, pattern = "^(system|developer|user|assistant|tool)$")]
    pub(crate) role: Option<String>,
    pub(crate) content: Option<Content>,
    /// What an assistant says in place of content.
    pub(crate) refusal: Option<String>,
    /// What an assistant thought; some templates show it.
    pub(crate) reasoning_content: Option<String>,
    /// What the assistant called.
    pub(crate) tool_calls: Option<Vec<ToolCallBody>>,
    /// The call that a `tool` answers.
    pub(crate) tool_call_id: Option<String>,
    pub(crate) name: Option<String>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// What a message says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of text parts")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of a message; only those of the type `text` are supported.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagePart)]
#[serde(expecting = "a part, which is an object")]
pub(crate) struct ContentPart {
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    pub(crate) kind: String,
    #[schema(required = true, value_type = String)]
    pub(crate) text: Option<String>,
    /// That of a part of the type `refusal`, which answers of others have.
    #[schema(ignore)]
    pub(crate) refusal: Option<String>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A tool that may be called; only functions are supported. Further keys say nothing to a model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a tool, which is an object")]
pub(crate) struct ToolBody {
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub(crate) kind: String,
    #[schema(required = true, value_type = FunctionBody)]
    pub(crate) function: Option<FunctionBody>,
}

/// A function that may be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a function, which is an object")]
pub(crate) struct FunctionBody {
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// JSON schema; absent means no arguments.
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Whether arguments have to keep to the schema.
    pub(crate) strict: Option<bool>,
}

/// Which tools are to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": ..}}"
)]
pub(crate) enum ToolChoice {
    Mode(String),
    Function(FunctionChoice),
}

/// One function, to be called.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct FunctionChoice {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) function: FunctionName,
}

/// The function's name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct FunctionName {
    pub(crate) name: String,
}

/// A call of a tool, as history has it, with whatever clients and their parsers add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a call, which is an object")]
pub(crate) struct ToolCallBody {
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) function: CalledFunction,
}

/// The function that was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a function's name and arguments")]
pub(crate) struct CalledFunction {
    pub(crate) name: String,
    /// JSON, what is left of it if it was cut off, or the object itself.
    pub(crate) arguments: Option<Value>,
}
