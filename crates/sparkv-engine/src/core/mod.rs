//! Tokens only: the thread that owns the model, and the handle on it.
//!
//! One subject per file: `line` is where requests wait, `sequence` is one request at work, `scheduler`
//! is the loop that decides which sequence runs next. None of them knows text.
mod line;
mod scheduler;
mod sequence;
mod stream;

use std::{num::NonZeroUsize, sync::Arc, time::Instant};

use sparkv::KvChoice;
use sparkv_models::{LanguageModel, ModelInfo};
use tokio::sync::mpsc;

use crate::{
    request::{PromptLength, RequestError},
    sampler::{Sampler, SamplingParams},
};
use line::Line;
use scheduler::Scheduler;
use sequence::{Job, Work};

pub use stream::{Token, TokenStream};

/// Bounds of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// The most requests that may wait, those that run not counted.
    pub max_queue: NonZeroUsize,
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests the model works on.
    pub running: usize,
    /// Requests that wait for it.
    pub waiting: usize,
}

/// A request to continue tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRequest {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// The most tokens to generate, at least 1; what fits in the context if `None`.
    pub max_tokens: Option<usize>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// What the KV cache may cost.
    pub kv: KvChoice,
}

/// A handle on the thread that owns a model. Dropping it lets the thread finish what it took, and end.
#[derive(Debug)]
pub struct TokenEngine {
    line: Arc<Line>,
    info: ModelInfo,
}

impl TokenEngine {
    /// Starts the thread that owns `model`.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<M: LanguageModel + 'static>(model: M, config: EngineConfig) -> std::io::Result<Self> {
        let info = model.info().clone();
        let line = Arc::new(Line::new(config.max_queue.get()));
        let scheduler = Scheduler::new(model, Arc::clone(&line));
        std::thread::Builder::new().name("sparkv-engine".to_owned()).spawn(move || scheduler.run())?;
        Ok(Self { line, info })
    }

    /// Checks a request and puts it in line. Does not wait.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn submit(&self, request: TokenRequest) -> Result<TokenStream, RequestError> {
        let work = self.check(request)?;
        let (events, tokens) = mpsc::unbounded_channel();
        self.line.join(Job { work, events, arrived: Instant::now() })?;
        Ok(TokenStream::new(tokens, Arc::clone(&self.line)))
    }

    /// Whether a request that came now would be taken, as far as that depends on others.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::Stopped`].
    pub fn check_room(&self) -> Result<(), RequestError> {
        self.line.check_room()
    }

    /// Everything about a request that can be known before it runs.
    fn check(&self, request: TokenRequest) -> Result<Work, RequestError> {
        let TokenRequest { prompt, max_tokens, sampling, ignore_eos, kv } = request;
        let sampler = Sampler::new(sampling)?;
        if prompt.is_empty() {
            return Err(RequestError::invalid("prompt", "must hold at least one token"));
        }
        let vocab_size = self.info.vocab_size;
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
            let message = format!("token id {id} is outside the vocabulary of {vocab_size}");
            return Err(RequestError::invalid("prompt", message));
        }
        let max_tokens = self.tokens_to_generate(PromptLength::Exactly(prompt.len()), max_tokens)?;
        let shape = &self.info.kv_shape;
        let kv = kv.settings(shape, prompt.len(), max_tokens)?;
        // Settings that this model's shape cannot take have no cost.
        kv.cache_bytes(shape, prompt.len(), max_tokens)?;
        Ok(Work { prompt, max_tokens, sampler, ignore_eos, kv })
    }

    /// Tokens to generate after a prompt: those asked for, or what fits in the context.
    ///
    /// # Errors
    /// [`RequestError::ContextExceeded`] if they do not fit; `max_tokens` of 0.
    pub(crate) fn tokens_to_generate(
        &self,
        prompt: PromptLength,
        max_tokens: Option<usize>,
    ) -> Result<usize, RequestError> {
        if max_tokens == Some(0) {
            return Err(RequestError::invalid("max_tokens", "must be at least 1"));
        }
        let limit = self.info.context_length;
        match (limit.saturating_sub(prompt.least()), max_tokens) {
            (left, None) if left > 0 => Ok(left),
            (left, Some(max)) if left >= max => Ok(max),
            _ => Err(RequestError::ContextExceeded { limit, prompt, max_tokens }),
        }
    }

    /// Facts of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Whether the thread lives; true while it drains.
    pub fn is_alive(&self) -> bool {
        self.line.is_alive()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        self.line.load()
    }

    /// Takes no more requests; those taken, running or waiting, are finished. Does not wait.
    pub fn shutdown(&self) {
        self.line.drain();
    }

    /// Takes no more requests, and ends those taken, running or waiting, with [`GenerateError::Stopped`]. Does
    /// not wait: what the model is in the middle of goes on for a chunk of a prompt or a token.
    ///
    /// [`GenerateError::Stopped`]: crate::GenerateError::Stopped
    pub fn abort(&self) {
        self.line.abort();
    }
}

impl Drop for TokenEngine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
