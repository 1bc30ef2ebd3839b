//! Bodies of /v1/responses, as they come and go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparkv::KvUsage;
use utoipa::ToSchema;

use crate::conversation::types::Content;
use crate::generation::fields::{FormatFields, GenerationFields};
use crate::generation::logprobs::ChatToken;
use crate::http::body::Fields;
use crate::responses::PROMPT;
use crate::schema::described_as_one;
use crate::schema::kv_cache;

/// A request.
#[derive(Debug, ToSchema)]
pub(crate) struct ResponsesBody {
    /// A text, or items of several kinds, each of which is read as what it says it is.
    #[schema(required = true, value_type = Value)]
    pub(crate) input: Option<Value>,
    /// A system message that stands before everything else.
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<usize>,
    pub(crate) tools: Option<Vec<ToolBody>>,
    /// Goes back as it came, once it was checked.
    pub(crate) tool_choice: Option<Value>,
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) text: Option<TextBody>,
    /// What else the answer is to tell.
    pub(crate) include: Option<Vec<String>>,
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) user: Option<String>,
    /// Variables of the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    #[schema(ignore)]
    pub(crate) generation: GenerationFields,
}

impl ResponsesBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            input: fields.take(PROMPT),
            instructions: fields.take("instructions"),
            max_output_tokens: fields.take("max_output_tokens"),
            tools: fields.take("tools"),
            tool_choice: fields.take("tool_choice"),
            parallel_tool_calls: fields.take("parallel_tool_calls"),
            text: fields.take("text"),
            include: fields.take("include"),
            top_logprobs: fields.take("top_logprobs"),
            metadata: fields.take("metadata"),
            user: fields.take("user"),
            chat_template_kwargs: fields.take("chat_template_kwargs"),
            generation: GenerationFields::take(fields),
        }
    }
}

described_as_one!(
    ResponsesRequest,
    "ResponsesRequest",
    [ResponsesBody, GenerationFields, FormatFields],
    without ["n", "response_format", "stream_options", "max_tokens", "max_completion_tokens", "prompt_logprobs"]
);

/// A request, as clients see it.
pub(crate) struct ResponsesRequest;

/// A message, as an item. (Types of items are read before.)
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a message, which is an object")]
pub(crate) struct MessageItem {
    pub(crate) role: Option<String>,
    pub(crate) content: Option<Content>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A call that the assistant made, as an item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a call, which is an object")]
pub(crate) struct CallItem {
    pub(crate) call_id: String,
    pub(crate) name: String,
    /// JSON, or what became of it: a call that was cut off comes back, too.
    pub(crate) arguments: Option<Value>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// What a call gave, as an item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "the output of a call, which is an object")]
pub(crate) struct OutputOfCall {
    pub(crate) call_id: String,
    /// The function's, if it is told again.
    pub(crate) name: Option<String>,
    pub(crate) output: Content,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A tool that may be called; only functions are supported.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ResponsesTool)]
#[serde(expecting = "a tool, which is an object")]
pub(crate) struct ToolBody {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// JSON schema; absent means no arguments.
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Whether arguments have to keep to the schema.
    pub(crate) strict: Option<bool>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// Which tools are to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesToolChoice)]
#[serde(untagged, expecting = r#"expected none, auto, required, or {"type": "function", "name": ..}"#)]
pub(crate) enum ToolChoice {
    Mode(String),
    Function(FunctionChoice),
}

/// One function, to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesFunctionChoice)]
pub(crate) struct FunctionChoice {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
}

/// What the text of the answer is to be like.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesText)]
#[serde(expecting = "an object of options")]
pub(crate) struct TextBody {
    pub(crate) format: Option<Value>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// An answer: whole, or as far as it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseBody {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created_at: u64,
    pub(crate) completed_at: Option<u64>,
    pub(crate) status: &'static str,
    pub(crate) error: Option<ResponseError>,
    pub(crate) incomplete_details: Option<IncompleteDetails>,
    pub(crate) model: String,
    pub(crate) output: Vec<OutputItem>,
    pub(crate) usage: Option<ResponseUsage>,
    #[serde(flatten)]
    pub(crate) echo: Echo,
}

/// What was asked for, told again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Echo {
    pub(crate) background: bool,
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<usize>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) parallel_tool_calls: bool,
    /// Always null: answers are not stored.
    #[schema(value_type = Option<String>)]
    pub(crate) previous_response_id: (),
    pub(crate) reasoning: Reasoning,
    pub(crate) service_tier: &'static str,
    pub(crate) store: bool,
    pub(crate) temperature: f32,
    pub(crate) text: TextEcho,
    pub(crate) tool_choice: Value,
    pub(crate) tools: Vec<ToolEcho>,
    pub(crate) top_logprobs: usize,
    pub(crate) top_p: f32,
    pub(crate) truncation: &'static str,
    pub(crate) user: Option<String>,
}

/// Always null: there is no reasoning channel.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ResponsesReasoning)]
pub(crate) struct Reasoning {
    #[schema(value_type = Option<String>)]
    effort: (),
    #[schema(value_type = Option<String>)]
    summary: (),
}

/// What the text of the answer is like.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TextEcho {
    pub(crate) format: Value,
}

/// A tool that may be called.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ToolEcho {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Map<String, Value>>,
    pub(crate) strict: bool,
}

/// Why an answer failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// Why an answer ended before its end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IncompleteDetails {
    pub(crate) reason: &'static str,
}

/// A part of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    Message { id: String, role: &'static str, status: &'static str, content: Vec<OutputText> },
    FunctionCall { id: String, call_id: String, name: String, arguments: String, status: &'static str },
}

/// Text of a message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutputText {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    /// Always empty: nothing is cited.
    #[schema(value_type = Vec<Object>)]
    pub(crate) annotations: [(); 0],
    /// Of its tokens, if asked for.
    pub(crate) logprobs: Vec<ChatToken>,
}

/// What an answer cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    pub(crate) input_tokens: usize,
    pub(crate) input_tokens_details: InputTokensDetails,
    pub(crate) output_tokens: usize,
    pub(crate) output_tokens_details: OutputTokensDetails,
    pub(crate) total_tokens: usize,
    #[schema(value_type = kv_cache::KvUsage)]
    pub(crate) kv_cache: KvUsage,
}

/// Where the tokens of a prompt came from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InputTokensDetails {
    /// Those that were not computed for this request.
    pub(crate) cached_tokens: usize,
    /// Always 0: what is kept for later costs nothing.
    pub(crate) cache_write_tokens: usize,
}

/// What the tokens of an answer were spent on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutputTokensDetails {
    /// Always 0: there is no reasoning channel.
    pub(crate) reasoning_tokens: usize,
}

/// An event of a stream.
#[derive(Debug, Serialize)]
pub(crate) struct StreamEvent<T> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Counted from 0 in each stream.
    pub(crate) sequence_number: usize,
    #[serde(flatten)]
    pub(crate) fields: T,
}

/// What an event tells, by what it is about.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Told<'a> {
    Response {
        response: &'a ResponseBody,
    },
    Item {
        output_index: usize,
        item: &'a OutputItem,
    },
    Part {
        #[serde(flatten)]
        place: Place<'a>,
        part: &'a OutputText,
    },
    TextDelta {
        #[serde(flatten)]
        place: Place<'a>,
        delta: &'a str,
        logprobs: &'a [ChatToken],
    },
    TextDone {
        #[serde(flatten)]
        place: Place<'a>,
        text: &'a str,
        logprobs: &'a [ChatToken],
    },
    ArgumentsDelta {
        item_id: &'a str,
        output_index: usize,
        delta: &'a str,
    },
    ArgumentsDone {
        item_id: &'a str,
        output_index: usize,
        name: &'a str,
        arguments: &'a str,
    },
    Error {
        code: Option<&'a str>,
        message: &'a str,
        param: Option<&'a str>,
    },
}

/// Where a text is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Place<'a> {
    pub(crate) item_id: &'a str,
    pub(crate) output_index: usize,
    /// Messages have one part.
    pub(crate) content_index: usize,
}
