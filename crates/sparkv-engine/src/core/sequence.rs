//! One request, in the queue and at work.
use std::{borrow::Cow, time::Instant};

use sparkv::{KvSettings, KvUsage};
use sparkv_models::{LanguageModel, ModelError, ModelInfo};

use super::{
    constraint::Constraint,
    memory::Need,
    prefix::{Conversation, PrefixCache},
    token::{Events, Token},
};
use crate::{
    event::{FinishReason, GenerateError, Timings},
    sampler::{Drawn, Sampler},
};

/// What is to be done for a request; checked.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) prompt: Vec<u32>,
    /// At least 1, and within the context.
    pub(super) max_tokens: usize,
    pub(super) sampler: Sampler,
    /// Tokens that end the answer.
    pub(super) ends: Vec<u32>,
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) kv: KvSettings,
    /// When it is to have ended.
    pub(super) deadline: Option<Instant>,
}

impl Work {
    /// Draws the next token; returns whether the answer's grammar ends with it, too.
    fn draw(&mut self, logits: &[f32], position: usize) -> Result<(Drawn, bool), GenerateError> {
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

    fn need<'a>(&'a self, info: &'a ModelInfo) -> Need<'a> {
        Need { info, settings: &self.kv, prompt: self.prompt.len() }
    }
}

/// A request and how far it is, without a cache: in the queue for the first time, or again.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) events: Events,
    pub(super) arrived: Instant,
    /// Tokens drawn so far.
    generated: Vec<u32>,
    timings: Timings,
    /// When its first token was drawn.
    answered: Option<Instant>,
    /// Whether it lost its cache before. It then neither begins with what others left nor leaves anything until it
    /// has ended, so that it needs exactly what was computed for it.
    again: bool,
    /// Whether a step that it was part of failed, so that nobody else is to be part of its next.
    suspect: bool,
}

impl Job {
    pub(super) fn new(work: Work, events: Events) -> Self {
        Self {
            work,
            events,
            arrived: Instant::now(),
            generated: Vec::new(),
            timings: Timings::default(),
            answered: None,
            again: false,
            suspect: false,
        }
    }

    /// Whether the client went away.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether its time is up.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.work.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Bytes that its next `tokens` tokens, as far as it may generate them, will take.
    pub(super) fn headroom(&self, info: &ModelInfo, tokens: usize) -> u64 {
        let Work { prompt, max_tokens, kv, .. } = &self.work;
        let now = self.generated.len();
        let bytes = |generated| kv.cache_bytes(&info.kv_shape, prompt.len(), generated).unwrap_or(0);
        bytes(now.saturating_add(tokens).min(*max_tokens)).saturating_sub(bytes(now))
    }

    /// All tokens so far.
    fn tokens(&self) -> Vec<u32> {
        [&self.work.prompt[..], &self.generated].concat()
    }
}

/// Tokens on their way through the layers.
#[derive(Debug)]
struct PrefillState<P> {
    prefill: P,
    /// Rows yet to go through a layer, summed over layers.
    left: usize,
    /// Bytes that they hold beside the cache.
    bytes: u64,
    /// The most bytes held until they are through.
    need: u64,
}

/// A request at work. The fields are in this order so that memory is freed before the client hears of the end.
#[derive(Debug)]
pub(super) struct Sequence<M: LanguageModel> {
    cache: M::Cache,
    /// `None` once there is a next token to run.
    prefill: Option<PrefillState<M::Prefill>>,
    /// Tokens of the prompt that were not computed for this request.
    cached: usize,
    /// Tokens that were compressed as a prompt; those of an earlier request where this one continues its cache.
    prompt_tokens: usize,
    pub(super) job: Job,
}

/// Rows that a cache makes room for at a time.
const GROUP: usize = 16;

/// What a sequence does in a step.
pub(super) enum Part<'a, M: LanguageModel> {
    /// Runs the token.
    Decode(u32, &'a mut M::Cache),
    /// Moves tokens on.
    Prefill(&'a mut M::Prefill, &'a mut M::Cache),
}

/// A job with a cache, which begins with what is kept of others where that helps. Nothing is allocated yet.
#[derive(Debug)]
pub(super) struct Candidate<M: LanguageModel> {
    cache: M::Cache,
    /// Tokens in the cache.
    held: usize,
    prompt_tokens: usize,
    /// Whether the cache is a conversation's, taken out of what is kept.
    continues: bool,
    /// The most bytes held until the other tokens are through.
    need: u64,
    job: Job,
}

impl<M: LanguageModel> Candidate<M> {
    pub(super) fn new(model: &M, job: Job, kept: &mut PrefixCache<M>) -> Result<Self, GenerateError> {
        let tokens = job.tokens();
        let settings = &job.work.kv;
        if !job.again
            && settings.continues()
            && let Some(conversation) = kept.take_conversation(settings, &tokens)
        {
            let Conversation { cache, tokens: held, prompt_tokens } = conversation;
            let need = Need { info: model.info(), settings, prompt: prompt_tokens };
            let need = need.to_continue(held, tokens.len()).map_err(ModelError::from)?;
            return Ok(Self { cache, held, prompt_tokens, continues: true, need, job });
        }
        let prompt_tokens = job.work.prompt.len();
        let mut cache = model.new_cache(settings, prompt_tokens)?;
        let shared = if job.again { None } else { kept.shared(settings, &tokens) };
        let held = match shared {
            Some((prefix, common)) => model.begin_with(&mut cache, prefix, common)?,
            None => 0,
        };
        let need = job.work.need(model.info()).to_start(job.generated.len()).map_err(ModelError::from)?;
        Ok(Self { cache, held, prompt_tokens, continues: false, need, job })
    }

    /// Bytes that it would allocate until there is a first token.
    pub(super) fn outstanding(&self, model: &M) -> u64 {
        self.need.saturating_sub(model.kv_usage(&self.cache).bytes)
    }

    /// Whether the job lost its cache before, and shares nothing.
    pub(super) fn begins_again(&self) -> bool {
        self.job.again
    }

    /// See [`Job::headroom`].
    pub(super) fn headroom(&self, info: &ModelInfo, tokens: usize) -> u64 {
        self.job.headroom(info, tokens)
    }

    /// Gives up the cache, to be tried later; a conversation's goes back to what is kept.
    pub(super) fn put_off(self, kept: &mut PrefixCache<M>) -> Job {
        let Self { cache, held, prompt_tokens, continues, job, .. } = self;
        if continues {
            let mut tokens = job.tokens();
            tokens.truncate(held);
            kept.keep_conversation(job.work.kv.clone(), prompt_tokens, tokens, cache);
        }
        job
    }

    /// Gives up the cache, to begin with nothing of others.
    pub(super) fn begin_again(self) -> Job {
        Job { again: true, ..self.job }
    }

    /// Sends the tokens on their state.
    pub(super) fn start(self, model: &M) -> Result<Sequence<M>, GenerateError> {
        let Self { cache, held, prompt_tokens, need, mut job, .. } = self;
        let tokens = &job.tokens()[held..];
        let info = model.info();
        let prefill = PrefillState {
            prefill: model.begin(tokens, &cache)?,
            left: tokens.len() * info.kv_shape.layers,
            bytes: (tokens.len() * info.row_bytes) as u64,
            need,
        };
        if job.answered.is_none() {
            job.timings.queue_seconds = job.arrived.elapsed().as_secs_f64();
        }
        Ok(Sequence { cache, prefill: Some(prefill), cached: held, prompt_tokens, job })
    }
}

impl<M: LanguageModel> Sequence<M> {
    /// Bytes that it may allocate until its prompt is computed, or else for its next token.
    pub(super) fn outstanding(&self, model: &M) -> u64 {
        match &self.prefill {
            Some(state) => state.need.saturating_sub(model.kv_usage(&self.cache).bytes + state.bytes),
            None => model.next_bytes(&self.cache),
        }
    }

    /// Rows yet to go through a layer until there is a next token, summed over layers.
    pub(super) fn rows_left(&self) -> usize {
        self.prefill.as_ref().map_or(0, |state| state.left)
    }

    /// Whether its prompt is being computed, or computed again.
    pub(super) fn is_prefilling(&self) -> bool {
        self.prefill.is_some()
    }

    /// Whether nobody else is to be part of its next step.
    pub(super) fn is_suspect(&self) -> bool {
        self.job.suspect
    }

    /// Tokens of the prompt that were not computed for it.
    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// Tokens of the prompt.
    pub(super) fn asked(&self) -> usize {
        self.job.work.prompt.len()
    }

    /// Whether it lost its cache before, and shares nothing.
    pub(super) fn begins_again(&self) -> bool {
        self.job.again
    }

    /// What its cache holds, what it shares included.
    pub(super) fn usage(&self, model: &M) -> KvUsage {
        model.kv_usage(&self.cache)
    }

    /// What there is to do.
    pub(super) fn part(&mut self) -> Option<Part<'_, M>> {
        match &mut self.prefill {
            Some(state) => Some(Part::Prefill(&mut state.prefill, &mut self.cache)),
            None => self.job.generated.last().map(|&token| Part::Decode(token, &mut self.cache)),
        }
    }

    /// Takes note that `rows`, summed over layers, went through.
    pub(super) fn moved(&mut self, rows: usize) {
        if let Some(state) = &mut self.prefill {
            state.left = state.left.saturating_sub(rows);
        }
    }

    /// Draws the token that follows from `logits`.
    pub(super) fn draw(&mut self, model: &M, logits: &[f32]) -> Result<Token, GenerateError> {
        self.prefill = None;
        self.job.suspect = false;
        let job = &mut self.job;
        let position = job.work.prompt.len() + job.generated.len();
        let (Drawn { id, logprobs }, complete) = job.work.draw(logits, position)?;
        job.generated.push(id);
        match job.answered {
            Some(answered) => job.timings.decode_seconds = answered.elapsed().as_secs_f64(),
            None => {
                let all = job.arrived.elapsed().as_secs_f64();
                job.timings.prefill_seconds = all - job.timings.queue_seconds;
                job.answered = Some(Instant::now());
            }
        }
        let ends = job.work.ends.contains(&id);
        let finish = if ends || complete {
            Some(FinishReason::Stop)
        } else {
            (job.generated.len() >= job.work.max_tokens).then_some(FinishReason::Length)
        };
        let kv = KvUsage { prompt_tokens: job.work.prompt.len(), ..model.kv_usage(&self.cache) };
        Ok(Token {
            id,
            is_text: !ends,
            logprobs,
            kv,
            cached_tokens: self.cached,
            timings: job.timings,
            finish,
        })
    }

    /// Leaves the first tokens to others, if they are whole in the cache. (They stay in it.) The rows behind the
    /// last whole group move to memory of their own.
    pub(super) fn publish_prefix(&mut self, model: &M, kept: &mut PrefixCache<M>) {
        if let Some((prefix, tokens)) = model.share(&mut self.cache) {
            kept.keep_shared(&self.job.work.kv, &self.job.tokens()[..tokens], prefix);
        }
    }

    /// Bytes that leaving a prefix may allocate.
    pub(super) fn cost_of_leaving(&self, model: &M) -> u64 {
        // A group of rows at the most, of at most twice the bytes of f16.
        2 * model.info().kv_shape.dense_bytes(GROUP)
    }

    /// Whether its cache holds all its tokens, for whoever may need them.
    pub(super) fn leaves_something(&self) -> bool {
        !self.is_prefilling() && !self.job.again
    }

    /// Ends it, and leaves behind what may be of use.
    pub(super) fn finish(mut self, model: &M, kept: &mut PrefixCache<M>) -> Events {
        if !self.job.work.kv.continues() {
            self.publish_prefix(model, kept);
            return self.into_job().events;
        }
        let mut tokens = self.job.tokens();
        // The last token was drawn, but not run.
        tokens.pop();
        let Self { cache, prompt_tokens, job, .. } = self;
        kept.keep_conversation(job.work.kv, prompt_tokens, tokens, cache);
        job.events
    }

    /// Gives up the cache.
    pub(super) fn into_job(self) -> Job {
        let Self { cache, prefill, job, .. } = self;
        drop((cache, prefill));
        job
    }

    /// Gives up the cache, to begin again later; with nobody else in a step, if `suspect`.
    pub(super) fn begin_again(self, suspect: bool) -> Job {
        Job { again: true, suspect, ..self.into_job() }
    }
}
