//! What a running request tells.
use serde::{Deserialize, Serialize};
use sparkv::{KvUsage, SettingsError};
use sparkv_models::ModelError;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// It was cut off: `max_tokens` were generated, or it repeated itself and that was to be the end.
    Length,
}

/// What a request cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were not computed for this request, but found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, an end-of-sequence token included.
    pub completion_tokens: usize,
    /// What its KV cache held when the last token was sampled.
    pub kv_cache: KvUsage,
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From its arrival until the model took it up.
    pub queue_seconds: f64,
    /// From then until its first token.
    pub prefill_seconds: f64,
    /// From its first token to its last.
    pub decode_seconds: f64,
}

/// What the model thinks of a token at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// Its id.
    pub id: u32,
    /// Its bytes, which may be part of a character. A special token's are those of its name.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A token of the answer, and what else might have stood in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TextLogprob {
    /// The token.
    pub token: TokenScore,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<TokenScore>,
}

/// A token of the prompt, and what the model thinks of it at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its bytes; see [`TokenScore::bytes`].
    pub bytes: Vec<u8>,
    /// Where its text begins in the prompt's, in characters.
    pub offset: usize,
    /// Natural logarithm of its probability; `None` for the first, which follows nothing.
    pub logprob: Option<f32>,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<TokenScore>,
}

/// One event of a request. A `Prompt` if that was asked for, any number of `Text`, then one `Done`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What the model thinks of the prompt.
    Prompt(Vec<PromptToken>),
    /// Text that is final: complete UTF-8, never part of a stop string. Held-back text arrives with a later
    /// event, so an event may stand for several tokens; the last one may carry ids without text.
    Text {
        /// What follows the text of the events before.
        text: String,
        /// Tokens generated since the event before. All events' ids together are the completion, an
        /// end-of-sequence token and the tokens of a stop string included.
        token_ids: Vec<u32>,
        /// Log probabilities, if asked for, of those tokens that are text; of a token that ends the answer, too, where
        /// those of the prompt were asked for.
        logprobs: Vec<TextLogprob>,
    },
    /// The last event.
    Done {
        /// Why the answer ended.
        reason: FinishReason,
        /// The stop string that ended it, if one did.
        stop: Option<String>,
        /// What it cost.
        usage: Usage,
        /// Where its time went.
        timings: Timings,
    },
}

/// Why a request failed while it ran. It fails alone.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model cannot take the request's KV settings. Comes before any text.
    #[error("kv_cache.{0}")]
    Settings(SettingsError),
    /// The model's computation failed.
    #[error(transparent)]
    Model(ModelError),
    /// The model's logits hold no finite number.
    #[error("the model's logits hold no finite number")]
    Logits,
    /// The computation panicked.
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// Its grammar asks for more than a token may cost.
    #[error("the grammar cannot be followed: {0}")]
    Grammar(String),
    /// The tokens have no text.
    #[error("the tokens cannot be decoded: {0}")]
    Decode(String),
    /// Its time was up.
    #[error("the request's time was up before it had ended")]
    Deadline,
    /// There was no memory left for it, though all others had given way.
    #[error("the memory for KV caches does not suffice for this request")]
    Memory,
    /// The engine's thread ended before the request did.
    #[error("the engine stopped")]
    Stopped,
}

impl From<ModelError> for GenerateError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Settings(error) => Self::Settings(error),
            error => Self::Model(error),
        }
    }
}
