//! What a sequence of the fake model has seen, and what that costs.
use std::sync::{Arc, atomic::Ordering};

use candle_core::{DType, Device, Tensor};
use sparkv::{
    KvSettings, KvUsage, LayerSpan, SequenceCache, SettingsError, SharedPrefix, TruncateError, attend,
};

use super::SHAPE;
use super::probe::Counters;

/// The list of a sequence's tokens, and a real cache of as many (all zeros), so that it costs what it would.
#[derive(Debug)]
pub struct FakeCache {
    tokens: Vec<u32>,
    kv: SequenceCache,
    counters: Arc<Counters>,
}

/// The first tokens of a sequence.
#[derive(Debug, Clone)]
pub struct FakePrefix {
    tokens: Vec<u32>,
    kv: SharedPrefix,
}

impl Drop for FakeCache {
    fn drop(&mut self) {
        self.counters.live_caches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeCache {
    pub(super) fn new(
        settings: &KvSettings,
        prompt_tokens: usize,
        counters: &Arc<Counters>,
    ) -> Result<Self, SettingsError> {
        let kv = SequenceCache::counted(SHAPE, settings, prompt_tokens, &counters.pool)?;
        counters.live_caches.fetch_add(1, Ordering::SeqCst);
        counters.caches_made.fetch_add(1, Ordering::SeqCst);
        Ok(Self { tokens: Vec::new(), kv, counters: Arc::clone(counters) })
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens until the prompt's end.
    pub(super) fn prompt_left(&self) -> Option<usize> {
        self.kv.prompt_left(0)
    }

    pub(super) fn append(&mut self, tokens: &[u32]) -> candle_core::Result<()> {
        let (prompt, after) = tokens.split_at(self.prompt_left().map_or(0, |left| left.min(tokens.len())));
        self.store(prompt.len())?;
        if !prompt.is_empty() && self.prompt_left() == Some(0) {
            self.kv.layers_mut().iter_mut().try_for_each(|layer| layer.finish_prompt())?;
        }
        self.store(after.len())?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn store(&mut self, tokens: usize) -> candle_core::Result<()> {
        if tokens == 0 {
            return Ok(());
        }
        let zeros = Tensor::zeros((tokens, SHAPE.attention.head_dim), DType::F32, &Device::Cpu)?;
        for cache in self.kv.layers_mut() {
            attend(&SHAPE.attention, &zeros, &zeros, &zeros, &mut [LayerSpan { tokens, wanted: 0, cache }])?;
        }
        Ok(())
    }

    pub(super) fn share(&mut self) -> Option<(FakePrefix, usize)> {
        let kv = self.kv.share()?;
        let tokens = kv.tokens();
        Some((FakePrefix { tokens: self.tokens[..tokens].to_vec(), kv }, tokens))
    }

    pub(super) fn begin_with(&mut self, prefix: &FakePrefix, most: usize) -> candle_core::Result<usize> {
        let tokens = self.kv.begin_with(&prefix.kv, most)?;
        self.tokens.extend_from_slice(&prefix.tokens[..tokens]);
        Ok(tokens)
    }

    pub(super) fn truncate(&mut self, tokens: usize) -> Result<(), TruncateError> {
        self.kv.truncate(tokens)?;
        self.tokens.truncate(tokens);
        Ok(())
    }

    pub(super) fn next_bytes(&self) -> u64 {
        self.kv.next_bytes()
    }

    pub(super) fn usage(&self) -> KvUsage {
        self.kv.usage()
    }
}
