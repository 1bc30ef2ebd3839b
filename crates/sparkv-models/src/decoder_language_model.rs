//! The decoder as a [`LanguageModel`]: the only file that knows both its weights and its step.
use sparkv::{KvSettings, KvUsage, SequenceCache, SharedPrefix};

use crate::decoder::Decoder;
use crate::language_model::{DecodeStep, LanguageModel, ModelError, ModelInfo, PrefillStep, StepOutput};
use crate::step::Prefill;

impl LanguageModel for Decoder {
    type Cache = SequenceCache;
    type Prefill = Prefill;
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

    fn begin(&self, tokens: &[u32], cache: &SequenceCache) -> Result<Prefill, ModelError> {
        if tokens.is_empty() || cache.prompt_left(0).is_some_and(|left| tokens.len() < left) {
            let message = format!("{} tokens do not reach the end of the prompt", tokens.len());
            return Err(candle_core::Error::Msg(message).into());
        }
        let charge = self.pool.charge(tokens.len() * self.info.row_bytes);
        Ok(Prefill::new(self.embed(tokens)?, cache.len(), charge)?)
    }

    fn step(
        &self,
        decode: &mut [DecodeStep<'_, SequenceCache>],
        prefills: &mut [PrefillStep<'_, SequenceCache, Prefill>],
    ) -> Result<StepOutput, ModelError> {
        self.run_step(decode, prefills)
    }

    fn kv_usage(&self, cache: &SequenceCache) -> KvUsage {
        cache.usage()
    }

    fn next_bytes(&self, cache: &SequenceCache) -> u64 {
        cache.next_bytes()
    }
}
