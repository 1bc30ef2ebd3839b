//! What a request tells as it goes, and whom.
use sparkv::KvUsage;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    event::{FinishReason, GenerateError, Timings},
    sampler::TokenLogprobs,
};

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Whether it is part of the answer; a token that ends it is not.
    pub is_text: bool,
    /// What the model thought of it, if that was asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// What came of a step for a request.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// In the first event, if asked for: what the model thought of the prompt's tokens from the second on.
    pub prompt_logprobs: Option<Vec<TokenLogprobs>>,
    /// The token generated; `None` where none were asked for.
    pub token: Option<Token>,
    /// What the KV cache held when it was drawn.
    pub kv: KvUsage,
    /// Tokens of the prompt that were not computed for this request, but found in the prefix cache.
    pub cached_tokens: usize,
    /// Where the request's time went so far.
    pub timings: Timings,
    /// Set on the last event.
    pub finish: Option<FinishReason>,
}

/// Where a request's events go, or the error that ended it.
pub(super) type Events = UnboundedSender<Result<TokenEvent, GenerateError>>;
