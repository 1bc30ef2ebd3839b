//! Bodies of /v1/chat/completions, as they come and go.

use serde::Serialize;
use utoipa::ToSchema;

use crate::conversation::types::ConversationFields;
use crate::generation::fields::{FormatFields, GenerationFields};
use crate::generation::head::Head;
use crate::generation::logprobs::{ChatLogprobs, LogprobFields, PromptLogprobs};
use crate::generation::usage::UsageBody;
use crate::http::body::Fields;
use crate::schema::described_as_one;

/// A request.
#[derive(Debug)]
pub(crate) struct ChatBody {
    pub(crate) conversation: ConversationFields,
    pub(crate) logprobs: LogprobFields,
    pub(crate) generation: GenerationFields,
}

impl ChatBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            conversation: ConversationFields::take(fields),
            logprobs: LogprobFields::take(fields),
            generation: GenerationFields::take(fields),
        }
    }
}

described_as_one!(
    ChatBody,
    "ChatRequest",
    [ConversationFields, LogprobFields, GenerationFields, FormatFields]
);

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Option<UsageBody>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<Object>>>)]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
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
    #[serde(flatten)]
    pub(crate) head: Head,
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
