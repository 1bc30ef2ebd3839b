//! Bodies of /v1/completions, as they come and go.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::completions::PROMPT;
use crate::generation::fields::{FormatFields, GenerationFields};
use crate::generation::head::Head;
use crate::generation::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::generation::usage::UsageBody;
use crate::http::body::Fields;
use crate::schema::described_as_one;

/// A request.
#[derive(Debug)]
pub(crate) struct CompletionBody {
    pub(crate) own: CompletionFields,
    pub(crate) generation: GenerationFields,
}

impl CompletionBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            own: CompletionFields {
                prompt: fields.take(PROMPT),
                echo: fields.take("echo"),
                logprobs: fields.take("logprobs"),
            },
            generation: GenerationFields::take(fields),
        }
    }
}

described_as_one!(CompletionBody, "CompletionRequest", [CompletionFields, GenerationFields, FormatFields]);

/// Fields that chats do not have.
#[derive(Debug, ToSchema)]
pub(crate) struct CompletionFields {
    #[schema(required = true, value_type = PromptField)]
    pub(crate) prompt: Option<PromptField>,
    /// Whether answers begin with their prompt.
    pub(crate) echo: Option<bool>,
    /// Report log probabilities, with this many alternatives to each token; with `echo`, those of the prompt, too.
    #[schema(maximum = 20)]
    pub(crate) logprobs: Option<usize>,
}

/// What to continue: one prompt or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, an array of token ids, or an array of either")]
pub(crate) enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// A whole answer, or a piece of a streamed one: they differ in `finish_reason` and `usage` only.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    #[serde(flatten)]
    pub(crate) head: Head,
    /// One in a chunk, or none in the one that reports the usage.
    pub(crate) choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UsageBody>)]
    pub(crate) usage: Option<Option<UsageBody>>,
}

/// One of the answers, or a piece of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
pub(crate) struct Choice {
    pub(crate) text: String,
    /// Answers to the first prompt come first.
    pub(crate) index: usize,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<Object>>>)]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
}
