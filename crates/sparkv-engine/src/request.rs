//! What may be asked of the engine, and why it may refuse.
use std::{fmt, num::NonZeroUsize, time::Duration};

use bytesize::ByteSize;
use serde_json::Value;
use sparkv::{KvChoice, SettingsError};

use crate::{
    chat::{Chat, Tool},
    sampler::{InvalidParam, SamplingParams},
};

/// What to continue.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Text; gets the tokenizer's BOS and the like, as its post-processor says.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
    /// A conversation, rendered by the model's chat template.
    Chat(Chat),
}

/// What holds where a request does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationDefaults {
    /// The most tokens of an answer; where they do not fit in the context, or in memory, what does.
    pub max_tokens: NonZeroUsize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
}

impl Default for GenerationDefaults {
    /// 2048 tokens; drawn as the model has them, without any filter.
    fn default() -> Self {
        let sampling = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        Self { max_tokens: NonZeroUsize::MIN.saturating_add(2047), sampling }
    }
}

/// A request to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Report what the model thinks of the prompt's tokens, with this many of the likeliest in the place of each;
    /// nothing if `None`. All of the prompt is computed then, whatever is in the prefix cache.
    pub prompt_logprobs: Option<usize>,
    /// The most tokens to generate; what fits in the context if `None`. With 0, the prompt is computed and kept for
    /// others.
    pub max_tokens: Option<usize>,
    /// Where `max_tokens` do not fit in the context, or in memory, generate what does, instead of refusing.
    pub fit_context: bool,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the model's own; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// What the answer may say; anything if `None`.
    pub format: Option<OutputFormat>,
    /// What the KV cache may cost.
    pub kv: KvChoice,
    /// Only requests with the same salt share what is kept of their prompts; those without one, with each other.
    pub cache_salt: Option<String>,
    /// How long it may take until it has ended; any time if `None`.
    pub timeout: Option<Duration>,
}

impl GenerateRequest {
    /// A request with every option at its default: greedy, no stop strings, the exact cache.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            prompt_logprobs: None,
            max_tokens: None,
            fit_context: false,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            format: None,
            kv: KvChoice::default(),
            cache_salt: None,
            timeout: None,
        }
    }
}

/// A language that an answer is to be in.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputFormat {
    /// JSON that a schema describes (draft 2020-12, as far as llguidance supports it).
    JsonSchema {
        /// The schema, an object.
        schema: Value,
        /// Whether answers have to keep to all of it, or may be held to as much of it as can be.
        strict: bool,
    },
    /// What a regular expression matches as a whole.
    Regex(String),
    /// What a grammar in llguidance's variant of Lark derives from `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of tools, in the format that the model's chat template asks for.
    ToolCalls {
        /// The tools that may be called.
        tools: Vec<Tool>,
        /// What may stand in place of calls.
        otherwise: Otherwise,
        /// Whether there may be several calls.
        several: bool,
    },
}

/// What an answer may be that calls no tool.
#[derive(Debug, Clone, PartialEq)]
pub enum Otherwise {
    /// It has to call one.
    Nothing,
    /// Text.
    Text,
    /// JSON that a schema describes.
    Json {
        /// As in [`OutputFormat::JsonSchema`].
        schema: Value,
        /// As in [`OutputFormat::JsonSchema`].
        strict: bool,
    },
}

/// Tokens of a prompt, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptLength {
    /// It was encoded.
    Exactly(usize),
    /// It was not, being too long a text for fewer tokens.
    AtLeast(usize),
}

impl PromptLength {
    /// The fewest tokens that the prompt can have.
    pub fn least(self) -> usize {
        match self {
            Self::Exactly(tokens) | Self::AtLeast(tokens) => tokens,
        }
    }
}

impl fmt::Display for PromptLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(tokens) => write!(f, "{tokens}"),
            Self::AtLeast(tokens) => write!(f, "at least {tokens}"),
        }
    }
}

/// Why a request was refused before it ran.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field holds what cannot be honoured.
    #[error("{param}: {message}")]
    InvalidParam {
        /// The field, as requests spell it: `temperature`, `stop`, `kv_cache.pruning.key_ratio`, ...
        param: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Prompt and completion do not fit in the model's context.
    #[error("{}", context_message(*limit, *prompt, *max_tokens))]
    ContextExceeded {
        /// Tokens the model was made for, prompt and completion together.
        limit: usize,
        /// Tokens of the prompt.
        prompt: PromptLength,
        /// Tokens asked for, if a number was given.
        max_tokens: Option<usize>,
    },
    /// The request would need more memory than all there is for KV caches.
    #[error("{}", memory_message(self))]
    TooMuchMemory {
        /// Name of the preset asked for, `custom`, or `budget`.
        preset: String,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        max_tokens: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        budget: u64,
        /// Tokens that could be generated with these settings; 0 if the prompt alone is too much.
        fitting: usize,
        /// A preset with which it would fit, and the bytes it would need.
        proposal: Option<(String, u64)>,
    },
    /// The answer's format cannot be had.
    #[error("the output format is not supported: {0}")]
    Format(String),
    /// As many requests wait as may wait.
    #[error("the queue is full, at most {max_queue} may wait; try again later")]
    QueueFull {
        /// The most requests that may wait.
        max_queue: usize,
    },
    /// A conversation for a model that has no chat template.
    #[error("this model has no chat template; send a plain prompt")]
    NoChatTemplate,
    /// A conversation for a model that may have a chat template in files that are not here.
    #[error(
        "this model's chat template is not here: {files} are not in the cache, and the hub could not be asked for them; \
         fetch the model once online, or give a template with --chat-template"
    )]
    TemplateNotCached {
        /// Their names.
        files: String,
    },
    /// A conversation for a model whose chat template is none.
    #[error("this model's chat template cannot be compiled, so that it takes no chats: {0}")]
    BrokenTemplate(String),
    /// The chat template refused the conversation, in its own words.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The engine is shutting down, or its thread is gone.
    #[error("the engine takes no more requests")]
    Stopped,
}

impl RequestError {
    /// A field that cannot be honoured.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::InvalidParam { param: param.to_owned(), message: message.into() }
    }
}

impl From<InvalidParam> for RequestError {
    fn from(error: InvalidParam) -> Self {
        Self::invalid(error.param, error.message)
    }
}

impl From<SettingsError> for RequestError {
    fn from(error: SettingsError) -> Self {
        Self::invalid(&format!("kv_cache.{}", error.param), error.message)
    }
}

fn memory_message(error: &RequestError) -> String {
    let RequestError::TooMuchMemory { preset, prompt, max_tokens, needed, budget, fitting, proposal } = error
    else {
        return String::new();
    };
    let (needed, budget) = (ByteSize(*needed), ByteSize(*budget));
    let less = match fitting {
        0 => "the prompt alone is too long".to_owned(),
        fitting => format!("max_tokens of {fitting} would fit"),
    };
    let other = match proposal {
        Some((name, bytes)) => format!("; kv_cache.preset `{name}` would fit, with {}", ByteSize(*bytes)),
        None => "; no preset would fit".to_owned(),
    };
    format!(
        "the KV cache of {prompt} tokens of prompt and {max_tokens} to generate needs {needed} with `{preset}`, \
         more than this server's {budget}: {less}{other}"
    )
}

/// Clients look for the first words, to tell this from other refusals.
fn context_message(limit: usize, prompt: PromptLength, max_tokens: Option<usize>) -> String {
    let asked = match max_tokens {
        Some(max) => format!("{prompt} in the prompt and {max} to generate"),
        None => format!("{prompt} in the prompt, which leaves none to generate"),
    };
    format!("this model's maximum context length is {limit} tokens; the request has {asked}")
}
