//! Bodies of /v1/completions, as they come and go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Fields;
use crate::common::types::{GenerationFields, UsageBody};
use crate::completions::PROMPT;
use crate::error::ApiError;

/// A request.
#[derive(Debug)]
pub(crate) struct CompletionBody {
    pub(crate) prompt: Option<PromptField>,
    pub(crate) generation: GenerationFields,
    /// Fields to be refused.
    pub(crate) rest: Map<String, Value>,
}

impl CompletionBody {
    /// Sorts the fields of a body.
    ///
    /// # Errors
    /// If one has another type.
    pub(crate) fn take(mut fields: Fields) -> Result<Self, ApiError> {
        let generation = GenerationFields::take(&mut fields)?;
        Ok(Self { prompt: fields.take(PROMPT)?, generation, rest: fields.into_rest() })
    }
}

/// What to continue. Lists of one prompt are taken, longer ones refused.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of token ids")]
pub(crate) enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// A whole answer, or a piece of a streamed one: they differ in `finish_reason` and `usage` only.
#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
    /// One, or none in the chunk that reports the usage.
    pub(crate) choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<UsageBody>>,
}

/// The only choice of an answer.
#[derive(Debug, Serialize)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) index: usize,
    /// Always null: not supported.
    pub(crate) logprobs: (),
    pub(crate) finish_reason: Option<&'static str>,
}
