//! The caches of a sequence: what is held, and what it costs.

use std::sync::Arc;

use candle_core::Result;
use serde::{Deserialize, Serialize};
use sparkv_kernels::GROUP;

use crate::parallel;
use crate::plan::CachePlan;
use crate::pool::KvPool;
use crate::settings::{KvSettings, SettingsError};
use crate::shape::KvShape;
use crate::storage::device::memory::DeviceMemory;
use crate::storage::{Layer, SharedLayer};

/// What a sequence's cache costs, as counted, at some moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvUsage {
    /// Name of the preset, or `custom`, or `budget`.
    pub preset: String,
    /// How keys are stored that have left the window, such as `int4 query`.
    pub keys: String,
    /// The same of values.
    pub values: String,
    /// Which tokens stay: `none` is dropped, or by which policy how many are, such as `snapkv, 1024 tokens`.
    pub eviction: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens stored per KV head, of prompt and completion; the mean over layers, which may keep different
    /// numbers, rounded.
    pub kept_tokens: usize,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes of a dense f16 cache of the same logical length, in groups of 16 tokens, as `bytes` are of dense rows.
    pub dense_bytes: u64,
    /// `bytes` over the logical length.
    pub bytes_per_token: f64,
}

/// Tokens that cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TruncateError {
    /// There are not as many.
    #[error("a cache of {len} tokens cannot go back to {tokens}")]
    Ahead {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens seen.
        len: usize,
    },
    /// They belong to the prompt, or come while it is computed.
    #[error("a cache cannot go back to {tokens} tokens, into its prompt of {prompt_tokens}")]
    Prompt {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens of the prompt.
        prompt_tokens: usize,
    },
    /// Something was done to the cache that cannot be undone.
    #[error(
        "of the last {back} tokens only {removable} can be taken back: room was made for the others, or they are shared"
    )]
    Stored {
        /// Tokens to be taken back.
        back: usize,
        /// Those that can be.
        removable: usize,
    },
}

/// One sequence's cache: a [`LayerCache`] per decoder layer.
#[derive(Debug)]
pub struct SequenceCache {
    preset: String,
    /// How keys and values are stored.
    rows: [String; 2],
    /// Which tokens stay.
    eviction: String,
    plan: Arc<CachePlan>,
    layers: Vec<LayerCache>,
}

/// The first tokens of a sequence, as other sequences may begin with them: dense rows, held once however many
/// caches have them.
#[derive(Clone)]
pub struct SharedPrefix {
    tokens: usize,
    layers: Vec<SharedLayer>,
}

impl std::fmt::Debug for SharedPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPrefix").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl SharedPrefix {
    /// Tokens it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl SequenceCache {
    /// An empty cache for a prompt of `prompt_tokens`, counted by nobody else.
    ///
    /// # Errors
    /// If the model's shape cannot take these settings: a head_dim that is not a multiple of 8, a ratio that
    /// leaves no channel, eviction on a sliding-window model.
    pub fn new(
        shape: KvShape,
        settings: &KvSettings,
        prompt_tokens: usize,
    ) -> std::result::Result<Self, SettingsError> {
        Self::counted(shape, settings, prompt_tokens, &KvPool::default())
    }

    /// The same, whose memory is that of `pool`.
    ///
    /// # Errors
    /// As [`SequenceCache::new`], and if the device of `pool` cannot do what the settings ask.
    pub fn counted(
        shape: KvShape,
        settings: &KvSettings,
        prompt_tokens: usize,
        pool: &KvPool,
    ) -> std::result::Result<Self, SettingsError> {
        let plan = CachePlan::new(shape, settings, prompt_tokens)?;
        if pool.memory().is_some() {
            plan.check_for_device()?;
        }
        Ok(Self::planned(plan, settings, pool))
    }

    /// A cache in which what follows the prompt stays dense, whatever the settings say, but for what a policy drops at all
    /// times: to measure what compressing a prompt costs by itself. Its memory counts in `pool`.
    ///
    /// # Errors
    /// As [`SequenceCache::new`].
    pub fn with_dense_tail(
        shape: KvShape,
        settings: &KvSettings,
        prompt_tokens: usize,
        pool: &KvPool,
    ) -> std::result::Result<Self, SettingsError> {
        let mut plan = CachePlan::new(shape, settings, prompt_tokens)?;
        plan.keep_tail_dense();
        Ok(Self::planned(plan, settings, pool))
    }

    fn planned(plan: CachePlan, settings: &KvSettings, pool: &KvPool) -> Self {
        let plan = Arc::new(plan);
        let layer = |index| LayerCache::new(Arc::clone(&plan), index, pool);
        let layers = (0..plan.shape.layers).map(layer).collect();
        let eviction = settings.eviction().map_or_else(|| "none".to_owned(), |eviction| eviction.to_string());
        Self { preset: settings.preset().to_owned(), rows: settings.rows(), eviction, plan, layers }
    }

    /// Begins with the first tokens of another sequence: as many whole groups as it shares, at most `most`, and
    /// fewer than the prompt has by those whose queries are needed. Gives how many that are; none where these
    /// settings hold the prompt in another precision.
    ///
    /// # Errors
    /// If tokens were seen already.
    pub fn begin_with(&mut self, prefix: &SharedPrefix, most: usize) -> Result<usize> {
        if self.layers.iter().any(|layer| !layer.is_empty()) {
            candle_core::bail!("a cache with tokens cannot begin with others");
        }
        let tokens = self.plan.shareable(prefix.tokens.min(most));
        let fits = prefix.layers.len() == self.layers.len()
            && self
                .layers
                .iter()
                .zip(&prefix.layers)
                .all(|(layer, shared)| layer.storage.fits(shared, &self.plan));
        if !fits || tokens == 0 {
            return Ok(0);
        }
        for (layer, shared) in self.layers.iter_mut().zip(&prefix.layers) {
            layer.storage.begin_with(shared, tokens);
            layer.len = tokens;
        }
        Ok(tokens)
    }

    /// Gives the first tokens to other sequences, whole groups of them; they stay in this cache, too. `None` if
    /// there are none in the form in which prompts are computed, because tokens were dropped or quantized.
    pub fn share(&mut self) -> Option<SharedPrefix> {
        let tokens = self.layers.iter().map(|layer| layer.storage.shareable());
        let tokens = tokens.min().filter(|&tokens| tokens > 0)?;
        if self.plan.drops_prompt_tokens() || self.layers.iter().any(|layer| layer.len != self.len()) {
            return None;
        }
        let layers = self.layers.iter_mut().map(|layer| layer.storage.share()).collect();
        Some(SharedPrefix { tokens, layers })
    }

    /// Bytes that the next token may allocate; what it frees is not counted.
    pub fn next_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.next_bytes() as u64).sum()
    }

    /// Takes back the tokens from position `tokens` on, which followed the prompt, while nothing was done to the cache
    /// for them. Attention and bytes are then those of a cache that never saw them.
    ///
    /// # Errors
    /// If they are part of the prompt, the prompt is still computed, some of them are shared with other sequences, or
    /// a block was quantized or a token overwritten to make room for them. Nothing has changed then.
    pub fn truncate(&mut self, tokens: usize) -> std::result::Result<(), TruncateError> {
        if tokens > self.len() {
            return Err(TruncateError::Ahead { tokens, len: self.len() });
        }
        if tokens < self.plan.prompt_tokens {
            return Err(TruncateError::Prompt { tokens, prompt_tokens: self.plan.prompt_tokens });
        }
        for layer in &self.layers {
            if !matches!(layer.phase, Phase::Generating) {
                return Err(TruncateError::Prompt { tokens, prompt_tokens: self.plan.prompt_tokens });
            }
            let (back, removable) = (layer.len.saturating_sub(tokens), layer.storage.removable());
            if back > removable {
                return Err(TruncateError::Stored { back, removable });
            }
        }
        for layer in &mut self.layers {
            layer.storage.truncate(layer.len.saturating_sub(tokens));
            layer.len = layer.len.min(tokens);
        }
        Ok(())
    }

    /// Tokens of the prompt that did not go through `layer` yet; `None` once the prompt is finished there.
    pub fn prompt_left(&self, layer: usize) -> Option<usize> {
        let layer = self.layers.get(layer).filter(|layer| !matches!(layer.phase, Phase::Generating))?;
        Some(self.plan.prompt_tokens.saturating_sub(layer.len))
    }

    /// The layers' caches. Prefill goes layer by layer; see [`LayerCache::finish_prompt`].
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Logical length: tokens that went through every layer; the position of the next token.
    pub fn len(&self) -> usize {
        self.layers.last().map_or(0, LayerCache::len)
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, counted over all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes() as u64).sum()
    }

    /// Tokens stored per KV head: the mean over layers, rounded.
    fn kept_tokens(&self) -> usize {
        let layers = self.layers.len().max(1);
        let tokens = self.layers.iter().map(LayerCache::kept_tokens).sum::<usize>();
        (tokens + layers / 2) / layers
    }

    /// Bytes held and tokens kept.
    pub fn usage(&self) -> KvUsage {
        let (tokens, bytes) = (self.len(), self.bytes());
        let [keys, values] = self.rows.clone();
        KvUsage {
            preset: self.preset.clone(),
            keys,
            values,
            eviction: self.eviction.clone(),
            prompt_tokens: self.plan.prompt_tokens,
            kept_tokens: self.kept_tokens(),
            bytes,
            dense_bytes: self.plan.shape.dense_bytes(tokens.next_multiple_of(GROUP)),
            bytes_per_token: if tokens > 0 { bytes as f64 / tokens as f64 } else { 0.0 },
        }
    }
}

/// One layer's cache of one sequence.
#[derive(Debug)]
pub struct LayerCache {
    pub(crate) plan: Arc<CachePlan>,
    pub(crate) storage: Layer,
    /// Which layer of the model it is, from 0.
    layer: usize,
    len: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was stored yet.
    Empty,
    /// The prompt is being computed.
    Prompt,
    /// The prompt is compressed.
    Generating,
}

impl LayerCache {
    fn new(plan: Arc<CachePlan>, layer: usize, pool: &KvPool) -> Self {
        let storage = Layer::new(&plan, pool);
        Self { plan, storage, layer, len: 0, phase: Phase::Empty }
    }

    /// Logical length: tokens this layer has seen; the position of its next token.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens stored per KV head.
    pub(crate) fn kept_tokens(&self) -> usize {
        self.storage.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.storage.bytes()
    }

    /// The memory of the device that it is on; `None` for the CPU.
    pub(crate) fn memory(&self) -> Option<DeviceMemory> {
        self.storage.memory()
    }

    /// Bytes that the next token may allocate.
    fn next_bytes(&self) -> usize {
        self.storage.next_bytes(&self.plan)
    }

    /// Stores tokens that no attention is wanted of; `keys` and `values`: (tokens, kv_heads * head_dim), `queries`: (tokens,
    /// query_heads * head_dim).
    pub(crate) fn store(&mut self, keys: &[f32], values: &[f32], queries: &[f32]) -> Result<()> {
        let tokens = keys.len() / self.plan.shape.attention.kv_row();
        let is_prompt = self.begin_tokens(tokens)?;
        self.storage.store(&self.plan, [keys, values, if is_prompt { queries } else { &[] }])
    }

    /// Quantizes what left the window, if no token could be appended otherwise. Returns how many can be, at least
    /// one.
    pub(crate) fn make_room(&mut self) -> Result<usize> {
        self.storage.quantize(&self.plan)?;
        Ok(self.storage.room(&self.plan))
    }

    /// To be called before `tokens` tokens are stored, at most as many as [`LayerCache::make_room`] said. Gives whether they
    /// are the prompt's, whose queries are to be observed.
    pub(crate) fn begin_tokens(&mut self, tokens: usize) -> Result<bool> {
        if matches!(self.phase, Phase::Empty) {
            self.phase = Phase::Prompt;
            self.storage.begin_prompt(&self.plan, self.len)?;
        }
        self.len += tokens;
        Ok(matches!(self.phase, Phase::Prompt))
    }

    /// Evicts, prunes and quantizes once the whole prompt went through this layer. What follows is
    /// quantized as it leaves the window. To be called once, after the prompt's last span.
    ///
    /// # Errors
    /// If no token was seen, the prompt is finished already, or the device fails.
    pub fn finish_prompt(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.phase, Phase::Generating) {
            Phase::Prompt => {
                let survivors = self.survivors()?;
                self.storage.gather(&self.plan, &survivors)
            }
            Phase::Empty => candle_core::bail!("the prompt cannot be finished before its first token"),
            Phase::Generating => candle_core::bail!("the prompt is finished already"),
        }
    }

    /// The prompt's tokens that stay, in order, for each KV head.
    fn survivors(&self) -> Result<Vec<Vec<usize>>> {
        let (plan, tokens) = (&self.plan, self.storage.len());
        let scored = plan.survivors.score().filter(|_| plan.survivors.count(self.layer, tokens) < tokens);
        let scores = scored.map(|score| self.storage.score(plan, score)).transpose()?.flatten();
        let of_head =
            |kv_head: usize| scores.as_ref().and_then(|scores| scores.get(kv_head)).map(Vec::as_slice);
        let survivors = parallel::map(plan.shape.attention.kv_heads, |kv_head| {
            Some(plan.survivors_of(self.layer, tokens, of_head(kv_head)))
        });
        Ok(survivors.into_iter().flatten().collect())
    }
}

/// One sequence's part of a ragged batch: `tokens` rows of q, k and v, in order, and the cache they extend.
#[derive(Debug)]
pub struct LayerSpan<'a> {
    /// Rows of the batch that belong to this sequence.
    pub tokens: usize,
    /// How many of them, the last ones, attention is wanted of; at most `tokens`. The others are only stored.
    pub wanted: usize,
    /// This layer's cache of the sequence.
    pub cache: &'a mut LayerCache,
}
