//! A request and how far it is, without a cache: in the queue for the first time, or again.
use std::{borrow::Cow, time::Instant};

use sparkv::{KvSettings, KvUsage};
use sparkv_models::{Logits, LogitsWanted, ModelInfo};

use super::{
    constraint::Constraint,
    memory::Need,
    token::{Events, Token, TokenEvent},
};
use crate::{
    event::{FinishReason, GenerateError, Timings},
    sampler::{Drawn, Sampler, TokenLogprobs},
};

/// What is to be done for a request; checked.
#[derive(Debug)]
pub(super) struct CheckedRequest {
    pub(super) prompt: Vec<u32>,
    /// Likeliest tokens to report at each token of the prompt, beside its log probability; nothing if `None`.
    pub(super) prompt_logprobs: Option<usize>,
    /// Within the context. With 0, the prompt is computed and that is all.
    pub(super) max_tokens: usize,
    pub(super) sampler: Sampler,
    /// Tokens that end the answer.
    pub(super) ends: Vec<u32>,
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) kv: KvSettings,
    /// Who may share what is kept of it: those with the same.
    pub(super) cache_salt: Option<String>,
    /// When it is to have ended.
    pub(super) deadline: Option<Instant>,
}

impl CheckedRequest {
    /// Draws the next token; returns whether the answer's grammar ends with it, too.
    fn draw(&mut self, logits: &Logits, position: usize) -> Result<(Drawn, bool), GenerateError> {
        let forbidden = if self.sampler.may_end() { &[][..] } else { &self.ends };
        let constraint = &mut self.constraint;
        let restrict = |logits: &mut Cow<'_, [f32]>| -> Result<(), GenerateError> {
            for &id in forbidden {
                if let Some(logit) = logits.to_mut().get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            match constraint {
                Some(constraint) => constraint.restrict(logits.to_mut()).map_err(GenerateError::Grammar),
                None => Ok(()),
            }
        };
        let drawn = self.sampler.draw(logits, position, restrict)?.ok_or(GenerateError::Logits)?;
        let complete = match &mut self.constraint {
            Some(constraint) if !self.ends.contains(&drawn.id) => {
                constraint.accept(drawn.id).map_err(GenerateError::Grammar)?
            }
            _ => false,
        };
        Ok((drawn, complete))
    }

    /// How many of the likeliest logits are enough to draw the next token; `None` where it takes all.
    fn wanted(&self) -> Option<usize> {
        let restricted = self.constraint.is_some() || !self.sampler.may_end();
        if restricted { None } else { self.sampler.wanted() }
    }

    pub(super) fn need<'a>(&'a self, info: &'a ModelInfo) -> Need<'a> {
        Need { info, settings: &self.kv, prompt: self.prompt.len() }
    }
}

/// A request and how far it is.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: CheckedRequest,
    pub(super) events: Events,
    pub(super) arrived: Instant,
    /// Tokens drawn so far.
    pub(super) generated: Vec<u32>,
    /// Of the prompt's tokens from the second on, as far as they are known and were not sent.
    prompt_logprobs: Vec<TokenLogprobs>,
    timings: Timings,
    /// When the client got its first event.
    answered: Option<Instant>,
    /// Whether it lost its cache before. It then neither begins with what others left nor publishes anything until it
    /// has ended, so that it needs exactly what was computed for it.
    restarted: bool,
    /// Whether a step that it was part of failed, so that nobody else is to be part of its next.
    suspect: bool,
}

impl Job {
    pub(super) fn new(request: CheckedRequest, events: Events) -> Self {
        Self {
            request,
            events,
            arrived: Instant::now(),
            generated: Vec::new(),
            prompt_logprobs: Vec::new(),
            timings: Timings::default(),
            answered: None,
            restarted: false,
            suspect: false,
        }
    }

    /// Whether the client went away.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether it lost its cache before, and shares nothing.
    pub(super) fn is_restarted(&self) -> bool {
        self.restarted
    }

    /// Whether nobody else is to be part of its next step.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether its time is up.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Bytes that its next `tokens` tokens, as far as it may generate them, will take.
    pub(super) fn headroom(&self, info: &ModelInfo, tokens: usize) -> u64 {
        let CheckedRequest { prompt, max_tokens, kv, .. } = &self.request;
        let now = self.generated.len();
        let bytes = |generated| kv.cache_bytes(&info.kv_shape, prompt.len(), generated).unwrap_or(0);
        bytes(now.saturating_add(tokens).min(*max_tokens)).saturating_sub(bytes(now))
    }

    /// It lost its cache and begins again; with nobody else in its next step, if `suspect`.
    pub(super) fn restart(self, suspect: bool) -> Self {
        Self { restarted: true, suspect, ..self }
    }

    /// All tokens so far.
    pub(super) fn tokens(&self) -> Vec<u32> {
        [&self.request.prompt[..], &self.generated].concat()
    }

    /// Whether the logits of all of its prompt are wanted, so that all of it has to be computed.
    pub(super) fn wants_prompt_logits(&self) -> bool {
        self.request.prompt_logprobs.is_some() && self.answered.is_none()
    }

    /// Which logits are wanted of its next `tokens` tokens.
    pub(super) fn wanted_logits(&self, tokens: usize) -> LogitsWanted {
        if self.wants_prompt_logits() {
            LogitsWanted::all(tokens)
        } else {
            LogitsWanted { rows: 1, likeliest: self.request.wanted() }
        }
    }

    /// Begins from its first token, whether for the first time or again.
    pub(super) fn started(&mut self) {
        self.prompt_logprobs.clear();
        if self.answered.is_none() {
            self.timings.queue_seconds = self.arrived.elapsed().as_secs_f64();
        }
    }

    /// Takes the logits after a token of the prompt that is not the last: how likely they make the one that follows it.
    pub(super) fn score(&mut self, logits: &Logits) -> Result<(), GenerateError> {
        let next = self.request.prompt.get(self.prompt_logprobs.len() + 1);
        if let (Some(&next), Some(top)) = (next, self.request.prompt_logprobs) {
            let logprobs = logits.all().and_then(|logits| TokenLogprobs::of(logits, next, top));
            let logprobs = logprobs.ok_or(GenerateError::Logits)?;
            self.prompt_logprobs.push(logprobs);
        }
        Ok(())
    }

    /// Takes the logits after its last token: draws the next one, if one is wanted.
    pub(super) fn draw(
        &mut self,
        logits: &Logits,
        kv: KvUsage,
        cached_tokens: usize,
    ) -> Result<TokenEvent, GenerateError> {
        self.suspect = false;
        let position = self.request.prompt.len() + self.generated.len();
        let mut token = None;
        let mut ended = false;
        if self.generated.len() < self.request.max_tokens {
            let (Drawn { id, logprobs }, complete) = self.request.draw(logits, position)?;
            self.generated.push(id);
            let ends = self.request.ends.contains(&id);
            ended = ends || complete;
            token = Some(Token { id, is_text: !ends, logprobs });
        }
        let prompt_logprobs = self.wants_prompt_logits().then(|| std::mem::take(&mut self.prompt_logprobs));
        match self.answered {
            Some(answered) => self.timings.decode_seconds = answered.elapsed().as_secs_f64(),
            None => {
                let all = self.arrived.elapsed().as_secs_f64();
                self.timings.prefill_seconds = all - self.timings.queue_seconds;
                self.answered = Some(Instant::now());
            }
        }
        let finish = if ended {
            Some(FinishReason::Stop)
        } else {
            let cut_off = self.generated.len() >= self.request.max_tokens || self.request.sampler.repeats();
            cut_off.then_some(FinishReason::Length)
        };
        let kv = KvUsage { prompt_tokens: self.request.prompt.len(), ..kv };
        Ok(TokenEvent { prompt_logprobs, token, kv, cached_tokens, timings: self.timings, finish })
    }
}
