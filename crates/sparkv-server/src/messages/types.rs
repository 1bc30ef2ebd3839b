//! Bodies of /v1/messages, as they come and go.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparkv::{KvOptions, KvUsage};
use utoipa::ToSchema;

use crate::conversation::types::Content;
use crate::generation::fields::{GenerationFields, ModelField, Seed, Stop, take_kv};
use crate::http::body::Fields;
use crate::messages::PROMPT;
use crate::schema::described_as_one;
use crate::schema::kv_cache;

/// A request.
#[derive(Debug)]
pub(crate) struct MessagesBody {
    pub(crate) conversation: ConversationFields,
    pub(crate) generation: GenerationFields,
}

impl MessagesBody {
    /// Sorts the fields of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        let generation = MessageFields::take(fields).into();
        Self { conversation: ConversationFields::take(fields), generation }
    }
}

described_as_one!(MessagesRequest, "MessagesRequest", [ConversationFields, MessageFields]);
described_as_one!(CountTokensRequest, "CountTokensRequest", [ConversationFields, ModelField]);

/// A request for an answer, as clients see it.
pub(crate) struct MessagesRequest;

/// A request for the number of tokens, as clients see it.
pub(crate) struct CountTokensRequest;

/// Fields about how to generate.
#[derive(Debug, ToSchema)]
struct MessageFields {
    /// Name of the model; absent means the one that is served.
    model: Option<String>,
    #[schema(required = true, value_type = usize, minimum = 1)]
    max_tokens: Option<usize>,
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    /// An integer of 64 bits; not Anthropic's.
    #[schema(value_type = Option<i64>)]
    seed: Option<Seed>,
    /// What the KV cache may cost; not Anthropic's.
    #[schema(value_type = Option<kv_cache::KvField>)]
    kv_cache: Option<KvOptions>,
    /// Keeps what is kept of the prompt apart from requests with another one; not Anthropic's.
    cache_salt: Option<String>,
}

impl MessageFields {
    fn take(fields: &mut Fields) -> Self {
        Self {
            model: fields.take("model"),
            max_tokens: fields.take("max_tokens"),
            temperature: fields.take("temperature"),
            top_p: fields.take("top_p"),
            top_k: fields.take("top_k"),
            stop_sequences: fields.take("stop_sequences"),
            stream: fields.take("stream"),
            seed: fields.take("seed"),
            kv_cache: take_kv(fields),
            cache_salt: fields.take("cache_salt"),
        }
    }
}

impl From<MessageFields> for GenerationFields {
    fn from(fields: MessageFields) -> Self {
        Self {
            model: fields.model,
            max_tokens: fields.max_tokens,
            temperature: fields.temperature,
            top_p: fields.top_p,
            top_k: fields.top_k,
            stop: fields.stop_sequences.map(Stop::Several),
            stream: fields.stream,
            seed: fields.seed,
            kv_cache: fields.kv_cache,
            cache_salt: fields.cache_salt,
            ..Self::default()
        }
    }
}

/// Fields about what was said, and what may be.
#[derive(Debug, ToSchema)]
#[schema(as = MessagesConversation)]
pub(crate) struct ConversationFields {
    #[schema(required = true, value_type = Vec<Message>, min_items = 1)]
    pub(crate) messages: Option<Vec<Message>>,
    /// What the assistant is told before all messages.
    pub(crate) system: Option<Content>,
    pub(crate) tools: Option<Vec<ToolBody>>,
    pub(crate) tool_choice: Option<ToolChoice>,
}

impl ConversationFields {
    /// Takes these fields out of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            messages: fields.take(PROMPT),
            system: fields.take("system"),
            tools: fields.take("tools"),
            tool_choice: fields.take("tool_choice"),
        }
    }
}

/// One message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagesMessage)]
#[serde(expecting = "a message, which is an object")]
pub(crate) struct Message {
    #[schema(required = true, value_type = String, pattern = "^(user|assistant)$")]
    pub(crate) role: Option<String>,
    /// A text, or blocks of several kinds, each of which is read as what it says it is.
    #[schema(required = true, value_type = Value)]
    pub(crate) content: Option<Value>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A call that the assistant made, as a block. (Types of blocks are read before.)
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a call, which is an object")]
pub(crate) struct ToolUse {
    pub(crate) id: String,
    pub(crate) name: String,
    #[schema(value_type = Object)]
    pub(crate) input: Map<String, Value>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// What a call gave, as a block.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "the result of a call, which is an object")]
pub(crate) struct ToolResult {
    pub(crate) tool_use_id: String,
    /// Absent means nothing.
    pub(crate) content: Option<Content>,
    /// Whether the call failed.
    pub(crate) is_error: Option<bool>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// A tool that may be called; only those that clients bring are supported.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagesTool)]
#[serde(expecting = "a tool, which is an object")]
pub(crate) struct ToolBody {
    /// `custom`, or absent.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// JSON schema.
    #[schema(value_type = Option<Object>)]
    pub(crate) input_schema: Option<Map<String, Value>>,
    /// Whether the input has to keep to the schema.
    pub(crate) strict: Option<bool>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// Which tools are to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MessagesToolChoice)]
#[serde(expecting = "an object, such as {\"type\": \"auto\"}")]
pub(crate) struct ToolChoice {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Of the tool to be called, if it is a certain one.
    pub(crate) name: Option<String>,
    pub(crate) disable_parallel_tool_use: Option<bool>,
    /// Fields to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) rest: Map<String, Value>,
}

/// How many tokens a conversation has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    pub(crate) input_tokens: usize,
}

/// An answer: whole, or at its beginning.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageBody {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) role: &'static str,
    pub(crate) model: String,
    pub(crate) content: Vec<Block>,
    #[serde(flatten)]
    pub(crate) stop: StopBody,
    pub(crate) usage: MessageUsage,
}

/// A part of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ContentBlock)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block {
    Text { text: String },
    ToolUse { id: String, name: String, input: Value },
}

/// Why an answer ended, once it has.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct StopBody {
    pub(crate) stop_reason: Option<&'static str>,
    /// The text that ended it, if one did.
    pub(crate) stop_sequence: Option<String>,
}

/// What an answer cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Tokens of the prompt that were computed for this request.
    pub(crate) input_tokens: usize,
    /// Always 0: what is kept for later costs nothing.
    pub(crate) cache_creation_input_tokens: usize,
    /// Tokens of the prompt that were not.
    pub(crate) cache_read_input_tokens: usize,
    pub(crate) output_tokens: usize,
    /// Once the answer has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<kv_cache::KvUsage>)]
    pub(crate) kv_cache: Option<KvUsage>,
}

/// An event of a stream.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum StreamEvent<'a> {
    MessageStart { message: &'a MessageBody },
    Ping,
    ContentBlockStart { index: usize, content_block: Block },
    ContentBlockDelta { index: usize, delta: Delta },
    ContentBlockStop { index: usize },
    MessageDelta { delta: StopBody, usage: Option<MessageUsage> },
    MessageStop,
}

impl StreamEvent<'_> {
    /// Its name, which is its type as well.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::Ping => "ping",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// What an event adds to a block.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Delta {
    TextDelta { text: String },
    InputJsonDelta { partial_json: String },
}
