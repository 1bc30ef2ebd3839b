//! Tokens to events.
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;

use super::{
    detokenizer::{Detokenizer, score},
    model::TextModel,
    stop::{Released, StopMatcher},
};
use crate::{
    core::{Token, TokenEvent, TokenStream},
    event::{Event, FinishReason, GenerateError, PromptToken, TextLogprob, Timings, Usage},
    sampler::TokenLogprobs,
};

/// The events of one request. Ends after [`Event::Done`] or an error. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {
    /// `None` once the last token was taken: to drop the tokens is to cancel what is left of them.
    source: Option<Source>,
    /// Events that are due.
    ready: VecDeque<Event>,
    prompt_tokens: usize,
    timings: Timings,
}

/// What makes text of the tokens of an answer.
#[derive(Debug)]
pub(super) struct AnswerText {
    pub(super) detokenizer: Detokenizer,
    pub(super) stop: StopMatcher,
    pub(super) prompt_tokens: usize,
    /// Where what the model thinks of the prompt is asked for.
    pub(super) scored: Option<PromptText>,
}

/// The tokens of a prompt, as far as their text matters.
#[derive(Debug)]
pub(super) struct PromptText {
    pub(super) model: Arc<TextModel>,
    pub(super) ids: Vec<u32>,
    /// Whether the names of special tokens are part of its text: it came as tokens.
    pub(super) spells_special: bool,
}

impl PromptText {
    /// Its tokens; `logprobs` are those from the second on.
    fn tokens(&self, logprobs: &[TokenLogprobs]) -> tokenizers::Result<Vec<PromptToken>> {
        let mut text = Detokenizer::after(Arc::clone(&self.model), &[])?;
        let mut offset = 0;
        let logprobs = std::iter::once(None).chain(logprobs.iter().map(Some));
        let tokens = self.ids.iter().zip(logprobs).map(|(&id, logprobs)| {
            let token = PromptToken {
                id,
                bytes: self.model.bytes(id).to_vec(),
                offset,
                logprob: logprobs.map(|logprobs| logprobs.logprob),
                top: logprobs.map_or_else(Vec::new, |logprobs| {
                    logprobs.top.iter().map(|&(id, logprob)| score(&self.model, id, logprob)).collect()
                }),
            };
            let spelled = self.spells_special && self.model.is_special(id);
            let special = if spelled { String::from_utf8_lossy(&token.bytes) } else { "".into() };
            offset += text.push(id)?.chars().count() + special.chars().count();
            Ok(token)
        });
        tokens.collect()
    }
}

/// Where the tokens come from, and what becomes of them.
#[derive(Debug)]
struct Source {
    tokens: TokenStream,
    text: Detokenizer,
    stop: StopMatcher,
    /// Where what the model thinks of the prompt is asked for.
    scored: Option<PromptText>,
    completion_tokens: usize,
    /// Tokens taken since the last event.
    pending: Vec<u32>,
    /// Log probabilities of those of them that are text, if asked for.
    pending_logprobs: Vec<TextLogprob>,
}

impl EventStream {
    pub(super) fn new(tokens: TokenStream, text: AnswerText) -> Self {
        let AnswerText { detokenizer: text, stop, prompt_tokens, scored } = text;
        let source = Source {
            tokens,
            text,
            stop,
            scored,
            completion_tokens: 0,
            pending: Vec::new(),
            pending_logprobs: Vec::new(),
        };
        let timings = Timings::default();
        Self { source: Some(source), ready: VecDeque::new(), prompt_tokens, timings }
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Where the request's time went until the last token that was taken for an event: the engine's own times,
    /// however late the event is read.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, GenerateError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next event; `None` after the last. For threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Result<Event, GenerateError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let token = self.source.as_mut()?.tokens.blocking_next()?;
            if let Err(error) = self.take(token) {
                return Some(Err(error));
            }
        }
    }

    /// Turns an event of the engine into those that it makes due.
    fn take(&mut self, event: Result<TokenEvent, GenerateError>) -> Result<(), GenerateError> {
        // Put back below unless this was the last event, so that every other way out ends the stream.
        let Some(mut source) = self.source.take() else { return Ok(()) };
        let event = event?;
        let cannot_decode = |error: tokenizers::Error| GenerateError::Decode(error.to_string());
        self.timings = event.timings;
        if let (Some(prompt), Some(logprobs)) = (&source.scored, &event.prompt_logprobs) {
            self.ready.push_back(Event::Prompt(prompt.tokens(logprobs).map_err(cannot_decode)?));
        }
        let Released { text, stopped } =
            source.release(event.token.as_ref(), event.finish.is_some()).map_err(cannot_decode)?;
        match if stopped.is_some() { Some(FinishReason::Stop) } else { event.finish } {
            None => {
                if !text.is_empty() {
                    self.ready.push_back(source.text_event(text));
                }
                self.source = Some(source);
            }
            Some(reason) => {
                self.ready.push_back(source.text_event(text));
                let usage = Usage {
                    prompt_tokens: self.prompt_tokens,
                    cached_tokens: event.cached_tokens,
                    completion_tokens: source.completion_tokens,
                    kv_cache: event.kv,
                };
                self.ready.push_back(Event::Done { reason, stop: stopped, usage, timings: event.timings });
            }
        }
        Ok(())
    }
}

impl Source {
    /// Takes a token and releases the text that is certain after it; all of it after the last token.
    fn release(&mut self, token: Option<&Token>, is_last: bool) -> tokenizers::Result<Released> {
        let mut piece = String::new();
        if let Some(token) = token {
            self.pending.push(token.id);
            self.completion_tokens += 1;
            // A token that ends an answer is not text, even where the tokenizer has one for it.
            if token.is_text {
                piece = self.text.push(token.id)?;
            }
            // Whoever has the prompt scored takes off as many as it asked for, the token that ends the answer included.
            let logprobs = token.logprobs.as_ref().filter(|_| token.is_text || self.scored.is_some());
            self.pending_logprobs.extend(logprobs.map(|logprobs| self.text.logprob(token.id, logprobs)));
        }
        if is_last {
            piece.push_str(&self.text.finish()?);
        }
        let mut released = self.stop.push(&piece);
        if is_last && released.stopped.is_none() {
            released.text.push_str(&self.stop.finish());
        }
        Ok(released)
    }

    /// An event for `text` and the tokens since the last event.
    fn text_event(&mut self, text: String) -> Event {
        let token_ids = std::mem::take(&mut self.pending);
        Event::Text { text, token_ids, logprobs: std::mem::take(&mut self.pending_logprobs) }
    }
}

impl Stream for EventStream {
    type Item = Result<Event, GenerateError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(source) = self.source.as_mut() else { return Poll::Ready(None) };
            let Some(token) = ready!(source.tokens.poll_next(context)) else { return Poll::Ready(None) };
            if let Err(error) = self.take(token) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}
