//! Bodies of /v1/chat/completions, as they come and go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::body::Fields;
use crate::chat::PROMPT;
use crate::common::logprobs::ChatLogprobs;
use crate::common::types::{FormatFields, GenerationFields, UsageBody};
use crate::error::ApiError;
use crate::openapi::described_as_one;

/// A request.
#[derive(Debug)]
pub(crate) struct ChatBody {
    pub(crate) conversation: ConversationFields,
    pub(crate) logprobs: LogprobFields,
    pub(crate) generation: GenerationFields,
    /// Fields to be refused.
    pub(crate) rest: Map<String, Value>,
}

impl ChatBody {
    /// Sorts the fields of a body.
    ///
    /// # Errors
    /// If one has another type.
    pub(crate) fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let fields = &mut fields;
        Ok(Self {
            conversation: ConversationFields::take(fields)?,
            logprobs: LogprobFields {
                logprobs: fields.take("logprobs")?,
                top_logprobs: fields.take("top_logprobs")?,
            },
            generation: GenerationFields::take(fields)?,
            rest: fields.take_rest(),
        })
    }
}

described_as_one!(
    ChatBody,
    "ChatRequest",
    [ConversationFields, LogprobFields, GenerationFields, FormatFields]
);

/// Which log probabilities to report.
#[derive(Debug, ToSchema)]
pub(crate) struct LogprobFields {
    /// Those of the answer's tokens.
    pub(crate) logprobs: Option<bool>,
    /// And those of this many of the likeliest tokens in their places.
    #[schema(maximum = 20)]
    pub(crate) top_logprobs: Option<usize>,
}

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
    ///
    /// # Errors
    /// If one has another type.
    pub(crate) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            messages: fields.take(PROMPT)?,
            tools: fields.take("tools")?,
            tool_choice: fields.take("tool_choice")?,
            parallel_tool_calls: fields.take("parallel_tool_calls")?,
            chat_template_kwargs: fields.take("chat_template_kwargs")?,
            add_generation_prompt: fields.take("add_generation_prompt")?,
            continue_final_message: fields.take("continue_final_message")?,
        })
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
    Parts(Vec<Part>),
}

/// A part of a message; only those of the type `text` are supported.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagePart)]
#[serde(expecting = "a part, which is an object")]
pub(crate) struct Part {
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    pub(crate) kind: String,
    #[schema(required = true, value_type = String)]
    pub(crate) text: Option<String>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A tool that may be called; only functions are supported.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a tool, which is an object")]
pub(crate) struct ToolBody {
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub(crate) kind: String,
    #[schema(required = true, value_type = FunctionBody)]
    pub(crate) function: Option<FunctionBody>,
}

/// A function that may be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a function, which is an object")]
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
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionChoice {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) function: FunctionName,
}

/// The function's name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionName {
    pub(crate) name: String,
}

/// A call of a tool, as history has it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a call, which is an object")]
pub(crate) struct ToolCallBody {
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) function: CalledFunction,
    /// Fields to be refused. (Deltas of a stream, put together by clients, have an index.)
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// The function that was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a function's name and arguments")]
pub(crate) struct CalledFunction {
    pub(crate) name: String,
    /// JSON.
    pub(crate) arguments: String,
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Option<UsageBody>,
}

/// One of the answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChoice)]
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) message: AnswerMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerMessage {
    pub(crate) role: &'static str,
    /// Null where there are calls and nothing else.
    pub(crate) content: Option<String>,
    /// Always null: not told apart from content.
    #[schema(value_type = Option<String>)]
    pub(crate) refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<AnswerCall>,
}

/// A call of a tool, or in a stream a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerCall {
    /// Which of the calls it is; in streams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) function: AnswerFunction,
}

/// What is called, and with what.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    /// One, or none in the chunk that reports the usage.
    pub(crate) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UsageBody>)]
    pub(crate) usage: Option<Option<UsageBody>>,
}

/// What a chunk adds to one of the answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
}

/// What a chunk adds to the message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<AnswerCall>,
}
