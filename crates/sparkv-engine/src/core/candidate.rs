//! A job with a cache, before it is decided whether there is memory for it.
use sparkv_models::{LanguageModel, ModelError};

use super::{
    job::Job,
    memory::Need,
    prefix::{Conversation, PrefixCache},
    sequence::Sequence,
};
use crate::event::GenerateError;

/// A job with a cache, which begins with what is kept of others where that helps. Nothing is allocated yet.
#[derive(Debug)]
pub(super) struct Candidate<M: LanguageModel> {
    cache: M::Cache,
    /// Tokens in the cache.
    held: usize,
    /// Tokens that were compressed as a prompt.
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
        let settings = &job.request.kv;
        let reuses = !job.is_restarted() && !job.wants_prompt_logits();
        if reuses
            && settings.continues()
            && let Some(conversation) = kept.take_conversation(&job.request, &tokens)
        {
            let Conversation { cache, tokens: held, prompt_tokens } = conversation;
            let need = Need { info: model.info(), settings, prompt: prompt_tokens };
            let need = need.to_continue(held, tokens.len()).map_err(ModelError::from)?;
            return Ok(Self { cache, held, prompt_tokens, continues: true, need, job });
        }
        let prompt_tokens = job.request.prompt.len();
        let mut cache = model.new_cache(settings, prompt_tokens)?;
        let shared = if reuses { kept.shared(&job.request, &tokens) } else { None };
        let held = match shared {
            Some((prefix, common)) => model.begin_with(&mut cache, prefix, common)?,
            None => 0,
        };
        let need = job.request.need(model.info()).to_start(job.generated.len()).map_err(ModelError::from)?;
        Ok(Self { cache, held, prompt_tokens, continues: false, need, job })
    }

    /// Bytes that it would allocate until there is a first token.
    pub(super) fn outstanding(&self, model: &M) -> u64 {
        self.need.saturating_sub(model.kv_usage(&self.cache).bytes)
    }

    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// Gives up the cache, to be tried later; a conversation's goes back to what is kept.
    pub(super) fn put_off(self, model: &M, kept: &mut PrefixCache<M>) -> Job {
        let Self { cache, held, prompt_tokens, continues, job, .. } = self;
        if continues {
            let mut tokens = job.tokens();
            tokens.truncate(held);
            kept.keep_conversation(model, &job.request, prompt_tokens, tokens, cache);
        }
        job
    }

    /// Gives up the cache, to begin with nothing of others.
    pub(super) fn restart(self) -> Job {
        self.job.restart(false)
    }

    /// Sends the tokens on their way.
    pub(super) fn start(self, model: &M) -> Result<Sequence<M>, GenerateError> {
        let Self { cache, held, prompt_tokens, need, mut job, .. } = self;
        job.started();
        Sequence::new(model, cache, held, prompt_tokens, need, job)
    }
}
