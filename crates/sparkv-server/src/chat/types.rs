//! Bodies of /v1/chat/completions, as they come and go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Fields;
use crate::chat::PROMPT;
use crate::common::types::{GenerationFields, UsageBody};
use crate::error::ApiError;

/// A request.
#[derive(Debug)]
pub(crate) struct ChatBody {
    pub(crate) messages: Option<Vec<Message>>,
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
        let generation = GenerationFields::take(&mut fields)?;
        Ok(Self { messages: fields.take(PROMPT)?, generation, rest: fields.into_rest() })
    }
}

/// One message of the conversation.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a message, which is an object")]
pub(crate) struct Message {
    pub(crate) role: Option<String>,
    pub(crate) content: Option<Content>,
    /// Fields to be refused.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// What a message says.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of text parts")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message; only those of the type `text` are supported.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a part, which is an object")]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
    /// Fields to be refused.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    pub(crate) choices: [Choice; 1],
    pub(crate) usage: UsageBody,
}

/// The only choice of an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) message: AnswerMessage,
    /// Always null: not supported.
    pub(crate) logprobs: (),
    pub(crate) finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Serialize)]
pub(crate) struct AnswerMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    /// Always null: not told apart from content.
    pub(crate) refusal: (),
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChunk {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    /// One, or none in the chunk that reports the usage.
    pub(crate) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<UsageBody>>,
}

/// The only choice of a chunk.
#[derive(Debug, Serialize)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    /// Always null: not supported.
    pub(crate) logprobs: (),
    pub(crate) finish_reason: Option<&'static str>,
}

/// What a chunk adds to the message.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}
