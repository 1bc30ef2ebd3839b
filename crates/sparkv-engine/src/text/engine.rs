//! The engine as its users see it.
use std::sync::Arc;

use sparkv::Presets;
use sparkv_models::{LanguageModel, ModelInfo};
use tokenizers::Tokenizer;

use super::{detokenizer::Detokenizer, model::TextModel, stop::StopMatcher, stream::EventStream};
use crate::{
    core::{EngineConfig, Load, Stats, TokenEngine, TokenRequest},
    request::{GenerateRequest, Prompt, PromptLength, RequestError},
};

/// A handle on a running engine: cheap to clone, shared by all who serve it. When the last one is dropped the
/// engine finishes what it took and ends.
#[derive(Debug, Clone)]
pub struct TextEngine {
    tokens: Arc<TokenEngine>,
    text: Arc<TextModel>,
}

impl TextEngine {
    /// Starts the thread that owns `model`. Requests that need too much memory are told which of `presets` would do.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<M: LanguageModel + 'static>(
        model: M,
        text: TextModel,
        config: EngineConfig,
        presets: Presets,
    ) -> std::io::Result<Self> {
        Ok(Self { tokens: Arc::new(TokenEngine::start(model, config, presets)?), text: Arc::new(text) })
    }

    /// Renders, encodes and checks a request, and puts it in line. Does not wait, but encodes on the caller's
    /// thread: milliseconds for a long prompt. A text that cannot fit in the context is refused unencoded:
    /// encoding takes some hundred times the text's memory.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn generate(&self, request: GenerateRequest) -> Result<EventStream, RequestError> {
        let GenerateRequest { prompt, max_tokens, fit_context, sampling, stop, ignore_eos, kv, timeout } =
            request;
        if stop.iter().any(String::is_empty) {
            return Err(RequestError::invalid("stop", "a stop string must not be empty"));
        }
        // An answer is a text of its own; a completion goes on where its prompt ends, leading space and all.
        let continues = !matches!(prompt, Prompt::Chat(_));
        let prompt = self.text.write(prompt)?;
        self.tokens.tokens_to_generate(self.text.length(&prompt), None)?;
        let prompt = self.text.encode_written(prompt)?;
        let prompt_tokens = prompt.len();
        let max_tokens = if fit_context {
            let fitting = self.tokens.tokens_to_generate(PromptLength::Exactly(prompt_tokens), None)?;
            max_tokens.map(|max| max.min(fitting))
        } else {
            max_tokens
        };
        let context = if continues { prompt.as_slice() } else { &[] };
        let text = Detokenizer::after(Arc::clone(&self.text), context)
            .map_err(|error| RequestError::invalid("prompt", format!("cannot be decoded: {error}")))?;
        let tokens = self.tokens.submit(TokenRequest {
            prompt,
            max_tokens,
            fit_memory: fit_context,
            sampling,
            ignore_eos,
            kv,
            timeout,
        })?;
        Ok(EventStream::new(tokens, text, StopMatcher::new(stop), prompt_tokens))
    }

    /// Whether a request that came now would be taken, as far as that depends on others.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::Stopped`].
    pub fn check_room(&self) -> Result<(), RequestError> {
        self.tokens.check_room()
    }

    /// What to propose, from now on, where memory does not suffice.
    pub fn set_presets(&self, presets: Presets) {
        self.tokens.set_presets(presets);
    }

    /// Facts of the model.
    pub fn info(&self) -> &ModelInfo {
        self.tokens.info()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.text.tokenizer()
    }

    /// Whether the engine's thread lives; true while it drains.
    pub fn is_alive(&self) -> bool {
        self.tokens.is_alive()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        self.tokens.load()
    }

    /// What the engine has done and holds.
    pub fn stats(&self) -> Stats {
        self.tokens.stats()
    }

    /// Takes no more requests; those taken, running or waiting, are finished. Does not wait.
    pub fn shutdown(&self) {
        self.tokens.shutdown();
    }

    /// Takes no more requests, and ends those taken, running or waiting, with [`GenerateError::Stopped`]. Does
    /// not wait.
    ///
    /// [`GenerateError::Stopped`]: crate::GenerateError::Stopped
    pub fn abort(&self) {
        self.tokens.abort();
    }
}
