//! Bodies of ollama's routes, as they come and go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparkv::{KvOptions, KvUsage};
use utoipa::ToSchema;

use crate::conversation::types::{MESSAGES, ToolBody, ToolCallBody};
use crate::error::ApiError;
use crate::generation::fields::take_kv;
use crate::generation::logprobs::{ChatToken, LogprobFields};
use crate::http::body::Fields;
use crate::ollama::options::{OPTIONS, Options};
use crate::schema::described_as_one;
use crate::schema::kv_cache;

/// The field that holds a prompt.
pub(crate) const PROMPT: &str = "prompt";

/// A request of /api/chat.
#[derive(Debug)]
pub(crate) struct ChatBody {
    pub(crate) conversation: ConversationFields,
    pub(crate) common: CommonFields,
    pub(crate) logprobs: LogprobFields,
}

/// A request of /api/generate.
#[derive(Debug)]
pub(crate) struct GenerateBody {
    pub(crate) prompt: PromptFields,
    pub(crate) common: CommonFields,
    pub(crate) logprobs: LogprobFields,
}

impl ChatBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        let conversation =
            ConversationFields { messages: fields.take(MESSAGES), tools: fields.take("tools") };
        Self { conversation, common: CommonFields::take(fields), logprobs: LogprobFields::take(fields) }
    }
}

impl GenerateBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        let prompt = PromptFields {
            prompt: fields.take(PROMPT),
            system: fields.take("system"),
            raw: fields.take("raw"),
        };
        Self { prompt, common: CommonFields::take(fields), logprobs: LogprobFields::take(fields) }
    }
}

described_as_one!(ChatBody, "OllamaChatRequest", [ConversationFields, CommonFields, LogprobFields]);
described_as_one!(GenerateBody, "OllamaGenerateRequest", [PromptFields, CommonFields, LogprobFields]);

/// What was said, and what may be called.
#[derive(Debug, ToSchema)]
pub(crate) struct ConversationFields {
    /// None ask whether the model is loaded.
    pub(crate) messages: Option<Vec<Message>>,
    pub(crate) tools: Option<Vec<ToolBody>>,
}

/// What to answer.
#[derive(Debug, ToSchema)]
pub(crate) struct PromptFields {
    /// None asks whether the model is loaded.
    pub(crate) prompt: Option<String>,
    /// What the assistant is told before the prompt.
    pub(crate) system: Option<String>,
    /// Whether the prompt is continued as it is, without the chat template.
    pub(crate) raw: Option<bool>,
}

/// Fields of both routes.
#[derive(Debug, ToSchema)]
pub(crate) struct CommonFields {
    /// Name of the model, which may end with `:latest`; absent means the one that is served.
    pub(crate) model: Option<String>,
    /// Whether the answer comes piece by piece, as it does if nothing is said.
    pub(crate) stream: Option<bool>,
    /// `json`, or a JSON schema.
    pub(crate) format: Option<Value>,
    pub(crate) options: Option<Options>,
    pub(crate) think: Option<Think>,
    /// What the KV cache may cost; not ollama's.
    #[schema(value_type = Option<kv_cache::KvField>)]
    pub(crate) kv_cache: Option<KvOptions>,
    /// Keeps what is kept of the prompt apart from requests with another one; not ollama's.
    pub(crate) cache_salt: Option<String>,
}

impl CommonFields {
    fn take(fields: &mut Fields) -> Self {
        Self {
            model: fields.take("model"),
            stream: fields.take("stream"),
            format: fields.take("format"),
            options: fields.take(OPTIONS),
            think: fields.take("think"),
            kv_cache: take_kv(fields),
            cache_salt: fields.take("cache_salt"),
        }
    }
}

/// Whether the model is to think first, for chat templates that can be told; or how much: `low`, `medium`, `high`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaThink)]
#[serde(untagged, expecting = "expected true, false, low, medium or high")]
pub(crate) enum Think {
    Whether(bool),
    HowMuch(Effort),
}

/// How much to think.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[schema(as = OllamaEffort)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effort {
    Low,
    Medium,
    High,
}

/// One message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaMessage)]
#[serde(expecting = "a message, which is an object")]
pub(crate) struct Message {
    #[schema(required = true, value_type = String, pattern = "^(system|user|assistant|tool)$")]
    pub(crate) role: Option<String>,
    pub(crate) content: Option<String>,
    /// What the assistant thought; some templates show it.
    pub(crate) thinking: Option<String>,
    /// What the assistant called.
    pub(crate) tool_calls: Option<Vec<ToolCallBody>>,
    /// The tool that a `tool` is the answer of.
    #[serde(alias = "name")]
    pub(crate) tool_name: Option<String>,
    /// The call that it answers; the first of the tool that has no answer yet if nothing is said.
    pub(crate) tool_call_id: Option<String>,
    /// None: the model reads text.
    #[schema(value_type = Option<Vec<String>>, max_items = 0)]
    pub(crate) images: Option<Vec<Value>>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A whole answer, or a piece of a streamed one, of which the last tells what it cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaAnswer)]
pub(crate) struct Line {
    /// The name that was asked for.
    pub(crate) model: String,
    pub(crate) created_at: String,
    #[serde(flatten)]
    pub(crate) said: Said,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logprobs: Option<Vec<ChatToken>>,
    #[serde(flatten)]
    pub(crate) ending: Ending,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaSaid)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Said {
    /// On /api/chat.
    Message(AnswerMessage),
    /// On /api/generate.
    Response(String),
}

/// What the model says, as a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaAnswerMessage)]
pub(crate) struct AnswerMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<AnswerCall>,
}

/// A call of a tool.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaCall)]
pub(crate) struct AnswerCall {
    pub(crate) id: String,
    pub(crate) function: AnswerFunction,
}

/// What is called, and with what.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaFunction)]
pub(crate) struct AnswerFunction {
    /// Which of the calls it is.
    pub(crate) index: usize,
    pub(crate) name: String,
    #[schema(value_type = Object)]
    pub(crate) arguments: Value,
}

/// Whether an answer is complete, and if so, what it cost. Times are in nanoseconds.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = OllamaEnding)]
pub(crate) struct Ending {
    pub(crate) done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) done_reason: Option<&'static str>,
    /// From the request's arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_duration: Option<u64>,
    /// Until the model took it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load_duration: Option<u64>,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_eval_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_eval_duration: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eval_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<kv_cache::KvUsage>)]
    pub(crate) kv_cache: Option<KvUsage>,
}

/// An error, as ollama's clients read it, over HTTP and within a stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaError)]
pub(crate) struct ErrorLine {
    error: String,
}

impl From<&ApiError> for ErrorLine {
    fn from(error: &ApiError) -> Self {
        let error = match error {
            // Clients know a missing model by these words.
            ApiError::UnknownModel { asked, served } => {
                format!("model '{asked}' not found; this server has '{served}'")
            }
            error => error.body().error.message,
        };
        Self { error }
    }
}
