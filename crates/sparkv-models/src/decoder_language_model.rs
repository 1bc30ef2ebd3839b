//! The decoder as a [`LanguageModel`]: the only file that knows both its weights and its step.
use sparkv::{KvSettings, KvUsage, SequenceCache, SharedPrefix};

use crate::decoder::Decoder;
use crate::language_model::{LanguageModel, ModelError, ModelInfo, SpanStep, check_span};
use crate::logits::{LogitsRows, LogitsWanted};
use crate::span::Span;

impl LanguageModel for Decoder {
    type Cache = SequenceCache;
    type Span = Span;
    type Prefix = SharedPrefix;

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn held_bytes(&self) -> u64 {
        self.pool.held()
    }

    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<SequenceCache, ModelError> {
        Ok(SequenceCache::counted(self.info.kv_shape, settings, prompt_tokens, &self.pool)?)
    }

    fn share(&self, cache: &mut SequenceCache) -> Option<(SharedPrefix, usize)> {
        cache.share().map(|prefix| {
            let tokens = prefix.tokens();
            (prefix, tokens)
        })
    }

    fn begin_with(
        &self,
        cache: &mut SequenceCache,
        prefix: &SharedPrefix,
        most: usize,
    ) -> Result<usize, ModelError> {
        Ok(cache.begin_with(prefix, most)?)
    }

    fn begin(&self, tokens: &[u32], wanted: LogitsWanted, cache: &SequenceCache) -> Result<Span, ModelError> {
        check_span(&self.info, tokens, wanted.rows, cache.prompt_left(0))?;
        Ok(Span::new(tokens, wanted, cache.len()))
    }

    fn step(&self, spans: &mut [SpanStep<'_, SequenceCache, Span>]) -> Result<Vec<LogitsRows>, ModelError> {
        self.run_step(spans)
    }

    fn truncate(&self, cache: &mut SequenceCache, tokens: usize) -> Result<(), ModelError> {
        Ok(cache.truncate(tokens)?)
    }

    fn span_bytes(&self, span: &Span) -> u64 {
        span.bytes()
    }

    fn kv_usage(&self, cache: &SequenceCache) -> KvUsage {
        cache.usage()
    }

    fn next_bytes(&self, cache: &SequenceCache) -> u64 {
        cache.next_bytes()
    }
}
