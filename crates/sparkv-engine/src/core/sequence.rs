//! One request at work.
use std::time::Instant;

use sparkv::KvSettings;
use sparkv_models::{DecodeStep, LanguageModel};
use tokio::sync::mpsc::UnboundedSender;

use super::stream::Token;
use crate::{
    event::{FinishReason, GenerateError, Timings},
    sampler::Sampler,
};

/// Where a request's tokens go, or the error that ended it.
pub(super) type Events = UnboundedSender<Result<Token, GenerateError>>;

/// What is to be done for a request; checked.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) prompt: Vec<u32>,
    /// At least 1, and within the context.
    pub(super) max_tokens: usize,
    pub(super) sampler: Sampler,
    pub(super) ignore_eos: bool,
    pub(super) kv: KvSettings,
}

/// A request in line.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) events: Events,
    pub(super) arrived: Instant,
}

impl Job {
    /// Whether the client went away.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }
}

/// A request whose prompt went through the model.
#[derive(Debug)]
pub(super) struct Sequence<C> {
    cache: C,
    work: Work,
    generated: usize,
    /// The token to run next.
    last: u32,
    prefilled: Instant,
    timings: Timings,
}

impl<C> Sequence<C> {
    /// Runs the prompt and draws the first token. `None` if the client went away meanwhile.
    ///
    /// `events` tells whether the client is still there, `arrived` when it came.
    pub(super) fn start<M: LanguageModel<Cache = C>>(
        model: &M,
        work: Work,
        events: &Events,
        arrived: Instant,
    ) -> Result<Option<(Self, Token)>, GenerateError> {
        let begun = Instant::now();
        let mut cache = model.new_cache(&work.kv, work.prompt.len())?;
        let Some(logits) = model.prefill(&work.prompt, &mut cache, &mut || !events.is_closed())? else {
            return Ok(None);
        };
        let timings = Timings {
            queue_seconds: (begun - arrived).as_secs_f64(),
            prefill_seconds: begun.elapsed().as_secs_f64(),
            decode_seconds: 0.0,
        };
        let mut sequence = Self { cache, work, generated: 0, last: 0, prefilled: Instant::now(), timings };
        let token = sequence.draw(model, &logits)?;
        Ok(Some((sequence, token)))
    }

    /// Runs the last token and draws the next.
    pub(super) fn decode<M: LanguageModel<Cache = C>>(&mut self, model: &M) -> Result<Token, GenerateError> {
        let step = DecodeStep { token: self.last, cache: &mut self.cache };
        let logits = model.decode(&mut [step])?.pop().ok_or(GenerateError::Logits)?;
        self.timings.decode_seconds = self.prefilled.elapsed().as_secs_f64();
        self.draw(model, &logits)
    }

    fn draw<M: LanguageModel<Cache = C>>(
        &mut self,
        model: &M,
        logits: &[f32],
    ) -> Result<Token, GenerateError> {
        let position = self.work.prompt.len() + self.generated;
        let id = self.work.sampler.sample(logits, position).ok_or(GenerateError::Logits)?;
        self.generated += 1;
        self.last = id;
        let finish = if !self.work.ignore_eos && model.info().eos_token_ids.contains(&id) {
            Some(FinishReason::Stop)
        } else {
            (self.generated >= self.work.max_tokens).then_some(FinishReason::Length)
        };
        Ok(Token { id, kv: model.kv_usage(&self.cache), timings: self.timings, finish })
    }
}
