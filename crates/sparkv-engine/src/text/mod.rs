//! Strings around the token core.
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use sparkv_models::{LanguageModel, ModelInfo};
use tokenizers::Tokenizer;
use tokio_stream::Stream;

use crate::{
    core::{EngineConfig, Load},
    event::{Event, GenerateError},
    request::{GenerateRequest, RequestError},
};

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {}

/// A model's text files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextModelError {
    /// The chat template is not a template.
    #[error("the chat template cannot be compiled: {0}")]
    Template(String),
}

impl TextModel {
    /// A tokenizer and, if the model is one for chats, its template (Jinja, as in `tokenizer_config.json`)
    /// with the texts of `bos_token` and `eos_token` it may ask for.
    ///
    /// # Errors
    /// If the template cannot be compiled.
    pub fn new(
        tokenizer: Tokenizer,
        chat_template: Option<&str>,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextModelError> {
        let _ = (tokenizer, chat_template, bos_token, eos_token);
        todo!()
    }
}

/// A handle on a running engine: cheap to clone, shared by all who serve it. When the last one is dropped the
/// engine finishes what it took and ends.
#[derive(Debug, Clone)]
pub struct TextEngine {}

impl TextEngine {
    /// Starts the thread that owns `model`.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<M: LanguageModel + 'static>(
        model: M,
        text: TextModel,
        config: EngineConfig,
    ) -> std::io::Result<Self> {
        let _ = (model, text, config);
        todo!()
    }

    /// Renders, encodes and checks a request, and puts it in line. Does not wait, but encodes on the caller's
    /// thread: milliseconds for a long prompt.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn generate(&self, request: GenerateRequest) -> Result<EventStream, RequestError> {
        let _ = request;
        todo!()
    }

    /// Facts of the model.
    pub fn info(&self) -> &ModelInfo {
        todo!()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        todo!()
    }

    /// Whether the engine's thread lives; true while it drains.
    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        todo!()
    }

    /// Takes no more requests; those taken are finished. Does not wait.
    pub fn shutdown(&self) {
        todo!()
    }
}

/// The events of one request. Ends after [`Event::Done`] or an error. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {}

impl EventStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, GenerateError>> {
        todo!()
    }

    /// The next event; `None` after the last. For threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Result<Event, GenerateError>> {
        todo!()
    }
}

impl Stream for EventStream {
    type Item = Result<Event, GenerateError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        todo!()
    }
}
