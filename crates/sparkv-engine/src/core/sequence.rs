//! One request at work.
use sparkv::KvUsage;
use sparkv_models::{LanguageModel, LogitsRows, SpanStep};

use super::{
    job::Job,
    prefix::PrefixCache,
    token::{Events, TokenEvent},
};
use crate::event::GenerateError;

/// A request at work. The fields are in this order so that memory is freed before the client hears of the end.
#[derive(Debug)]
pub(super) struct Sequence<M: LanguageModel> {
    cache: M::Cache,
    /// `None` once the answer has ended.
    span: Option<SpanState<M::Span>>,
    /// Tokens of the prompt that were not computed for this request.
    cached: usize,
    /// Tokens that were compressed as a prompt; those of an earlier request where this one continues its cache.
    prompt_tokens: usize,
    pub(super) job: Job,
}

/// Tokens on their way through the layers, and what is left of that.
#[derive(Debug)]
struct SpanState<S> {
    span: S,
    /// Rows yet to go through a layer, summed over layers.
    row_layers: usize,
    /// Rows of logits yet to come.
    logits: usize,
    phase: Phase,
}

/// What a span's tokens are.
#[derive(Debug)]
enum Phase {
    /// The prompt, and what followed it before the cache was lost.
    Prefill {
        /// The most bytes held until they are through.
        need: u64,
    },
    /// The token that was drawn last.
    Decode,
}

/// Rows that a cache makes room for at a time.
const GROUP: usize = 16;

impl<S> SpanState<S> {
    /// Sends tokens of `job` on their way: those that follow what is in `cache`.
    fn begin<M: LanguageModel<Span = S>>(
        model: &M,
        cache: &M::Cache,
        tokens: &[u32],
        job: &Job,
        phase: Phase,
    ) -> Result<Self, GenerateError> {
        let wanted = job.wanted_logits(tokens.len());
        Ok(Self {
            span: model.begin(tokens, wanted, cache)?,
            row_layers: model.row_layers(tokens.len(), wanted.rows),
            logits: wanted.rows,
            phase,
        })
    }
}

impl<M: LanguageModel> Sequence<M> {
    /// `cache` holds the first `held` tokens of `job`; the others are sent on their way. Until they are through, `need`
    /// bytes are held at the most.
    pub(super) fn new(
        model: &M,
        cache: M::Cache,
        held: usize,
        prompt_tokens: usize,
        need: u64,
        job: Job,
    ) -> Result<Self, GenerateError> {
        let tokens = &job.tokens()[held..];
        let span = SpanState::begin(model, &cache, tokens, &job, Phase::Prefill { need })?;
        Ok(Self { cache, span: Some(span), cached: held, prompt_tokens, job })
    }

    /// Bytes that it may allocate until its prompt is computed, or else for its next token.
    pub(super) fn outstanding(&self, model: &M) -> u64 {
        match &self.span {
            Some(SpanState { span, phase: Phase::Prefill { need }, .. }) => {
                need.saturating_sub(model.kv_usage(&self.cache).bytes + model.span_bytes(span))
            }
            Some(_) => model.next_bytes(&self.cache),
            None => 0,
        }
    }

    /// Rows yet to go through a layer until there is a next token, summed over layers.
    pub(super) fn row_layers(&self) -> usize {
        self.span.as_ref().map_or(0, |state| state.row_layers)
    }

    /// Whether its prompt is being computed, or computed again.
    pub(super) fn is_prefilling(&self) -> bool {
        matches!(self.span, Some(SpanState { phase: Phase::Prefill { .. }, .. }))
    }

    /// Tokens of the prompt that were not computed for it.
    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// What its cache holds, what it shares included.
    pub(super) fn usage(&self, model: &M) -> KvUsage {
        model.kv_usage(&self.cache)
    }

    /// Its part of a step that moves it on by `row_layers`.
    pub(super) fn span_step(&mut self, row_layers: usize) -> Option<SpanStep<'_, M::Cache, M::Span>> {
        let state = self.span.as_mut()?;
        Some(SpanStep { span: &mut state.span, cache: &mut self.cache, row_layers })
    }

    /// Takes note that `row_layers` rows, summed over layers, went through.
    pub(super) fn moved(&mut self, row_layers: usize) {
        if let Some(state) = &mut self.span {
            state.row_layers = state.row_layers.saturating_sub(row_layers);
        }
    }

    /// Takes the logits that a step made. Once its tokens are through, what follows from them, and the drawn one is
    /// the next on its way.
    pub(super) fn take(&mut self, model: &M, rows: LogitsRows) -> Result<Option<TokenEvent>, GenerateError> {
        for logits in rows {
            let Some(state) = &mut self.span else { break };
            state.logits = state.logits.saturating_sub(1);
            if state.logits > 0 {
                self.job.score(&logits)?;
                continue;
            }
            self.span = None;
            let event = self.job.draw(&logits, model.kv_usage(&self.cache), self.cached)?;
            if let (Some(token), None) = (&event.token, event.finish) {
                let span = SpanState::begin(model, &self.cache, &[token.id], &self.job, Phase::Decode)?;
                self.span = Some(span);
            }
            return Ok(Some(event));
        }
        Ok(None)
    }

    /// Leaves the first tokens to others, if they are whole in the cache. (They stay in it.) The rows behind the
    /// last whole group move to memory of their own.
    pub(super) fn publish_prefix(&mut self, model: &M, kept: &mut PrefixCache<M>) {
        if let Some((prefix, tokens)) = model.share(&mut self.cache) {
            kept.keep_shared(model, &self.job.request, &self.job.tokens()[..tokens], prefix);
        }
    }

    /// Bytes that publishing a prefix may allocate.
    pub(super) fn publish_bytes(&self, model: &M) -> u64 {
        // A group of rows at the most, of at most twice the bytes of f16.
        2 * model.info().kv_shape.dense_bytes(GROUP)
    }

    /// Whether its cache holds all its tokens, for whoever may need them.
    pub(super) fn is_publishable(&self) -> bool {
        !self.is_prefilling() && !self.job.is_restarted()
    }

    /// Ends it, and leaves behind what may be of use.
    pub(super) fn finish(mut self, model: &M, kept: &mut PrefixCache<M>) -> Events {
        if !self.job.request.kv.continues() {
            self.publish_prefix(model, kept);
            return self.into_job().events;
        }
        let Self { cache, prompt_tokens, job, .. } = self;
        let mut tokens = job.tokens();
        // The last token was drawn, but not run.
        tokens.truncate(job.request.prompt.len() + job.generated.len().saturating_sub(1));
        kept.keep_conversation(model, &job.request, prompt_tokens, tokens, cache);
        job.events
    }

    /// Gives up the cache.
    pub(super) fn into_job(self) -> Job {
        let Self { cache, span, job, .. } = self;
        drop((cache, span));
        job
    }

    /// Gives up the cache, to begin again later; with nobody else in a step, if `suspect`.
    pub(super) fn restart(self, suspect: bool) -> Job {
        self.into_job().restart(suspect)
    }
}
