//! The caches of a sequence: what is held, and what it costs.

use std::sync::Arc;

use candle_core::Result;
use serde::{Deserialize, Serialize};

use crate::head::{HeadCache, SharedHead};
use crate::observe::Observed;
use crate::parallel;
use crate::plan::{CachePlan, KvShape};
use crate::pool::KvPool;
use crate::select::Place;
use crate::settings::{KvSettings, SettingsError};

/// Keys below which a second thread costs more than it brings: some ten microseconds of work.
const SERIAL_VALUES: usize = 1 << 14;

/// What a sequence's cache costs, as counted, at some moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvUsage {
    /// Name of the preset, or `custom`.
    pub preset: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens stored per KV head, of prompt and completion; the mean over layers, which may keep different
    /// numbers, rounded.
    pub kept_tokens: usize,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes of a dense f16 cache of the same logical length.
    pub dense_bytes: u64,
    /// `bytes` over the logical length.
    pub bytes_per_token: f64,
}

/// One sequence's cache: a [`LayerCache`] per decoder layer.
#[derive(Debug)]
pub struct SequenceCache {
    preset: String,
    plan: Arc<CachePlan>,
    layers: Vec<LayerCache>,
}

/// The first tokens of a sequence, as other sequences may begin with them: dense rows, held once however many
/// caches have them.
#[derive(Clone)]
pub struct SharedPrefix {
    tokens: usize,
    /// By layer and KV head.
    layers: Vec<Vec<SharedHead>>,
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

    /// The same, whose memory counts in `pool`.
    ///
    /// # Errors
    /// As [`SequenceCache::new`].
    pub fn counted(
        shape: KvShape,
        settings: &KvSettings,
        prompt_tokens: usize,
        pool: &KvPool,
    ) -> std::result::Result<Self, SettingsError> {
        let plan = Arc::new(CachePlan::new(shape, settings, prompt_tokens)?);
        let layer = |index| LayerCache::new(Arc::clone(&plan), index, pool);
        let layers = (0..shape.layers).map(layer).collect();
        Ok(Self { preset: settings.preset().to_owned(), plan, layers })
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
            && prefix.layers.iter().flatten().all(|head| {
                head.keys.layout == self.plan.dense_keys && head.values.layout == self.plan.dense_values
            });
        if !fits || tokens == 0 {
            return Ok(0);
        }
        for (layer, heads) in self.layers.iter_mut().zip(&prefix.layers) {
            layer.heads.iter_mut().zip(heads).for_each(|(head, shared)| head.begin_with(shared, tokens));
            layer.len = tokens;
        }
        Ok(tokens)
    }

    /// Gives the first tokens to other sequences, whole groups of them; they stay in this cache, too. `None` if
    /// there are none in the form in which prompts are computed, because tokens were dropped or sealed.
    pub fn share(&mut self) -> Option<SharedPrefix> {
        let heads = self.layers.iter().flat_map(|layer| &layer.heads);
        let tokens = heads.map(HeadCache::shareable).min().filter(|&tokens| tokens > 0)?;
        if self.plan.drops_prompt_tokens() || self.layers.iter().any(|layer| layer.len != self.len()) {
            return None;
        }
        let layers = self.layers.iter_mut();
        let layers = layers.map(|layer| layer.heads.iter_mut().map(HeadCache::share).collect()).collect();
        Some(SharedPrefix { tokens, layers })
    }

    /// Bytes that the next token may allocate; what it frees is not counted.
    pub fn next_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.next_bytes() as u64).sum()
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
        KvUsage {
            preset: self.preset.clone(),
            prompt_tokens: self.plan.prompt_tokens,
            kept_tokens: self.kept_tokens(),
            bytes,
            dense_bytes: self.plan.shape.dense_bytes(tokens),
            bytes_per_token: if tokens > 0 { bytes as f64 / tokens as f64 } else { 0.0 },
        }
    }
}

/// One layer's cache of one sequence.
#[derive(Debug)]
pub struct LayerCache {
    pub(crate) plan: Arc<CachePlan>,
    pub(crate) heads: Vec<HeadCache>,
    /// Which layer of the model it is, from 0.
    layer: usize,
    len: usize,
    phase: Phase,
    pool: KvPool,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was stored yet.
    Empty,
    /// The prompt is being computed; what will be needed of its queries is noted.
    Prompt(Observed),
    /// The prompt is compressed.
    Generating,
}

impl LayerCache {
    fn new(plan: Arc<CachePlan>, layer: usize, pool: &KvPool) -> Self {
        let heads = (0..plan.shape.attention.kv_heads).map(|_| HeadCache::new(&plan, pool)).collect();
        Self { plan, heads, layer, len: 0, phase: Phase::Empty, pool: pool.clone() }
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
        self.heads.first().map_or(0, HeadCache::len)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let observed = match &self.phase {
            Phase::Prompt(observed) => observed.bytes(),
            Phase::Empty | Phase::Generating => 0,
        };
        self.heads.iter().map(HeadCache::bytes).sum::<usize>() + observed
    }

    /// Bytes that the next token may allocate. All heads hold as many.
    fn next_bytes(&self) -> usize {
        self.heads.first().map_or(0, |head| head.next_bytes(&self.plan)) * self.heads.len()
    }

    /// Packs what left the window, if no token could be appended otherwise. Returns how many can be, at least
    /// one.
    pub(crate) fn make_room(&mut self) -> usize {
        let plan = &self.plan;
        self.heads.iter_mut().for_each(|head| head.settle(plan));
        self.heads.first().map_or(usize::MAX, |head| head.room(plan))
    }

    /// Stores further tokens; `keys` and `values` are (tokens, kv_heads * head_dim). At most
    /// as many as [`LayerCache::make_room`] said.
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        let plan = Arc::clone(&self.plan);
        if matches!(self.phase, Phase::Empty) {
            self.phase = Phase::Prompt(Observed::new(&plan, self.len, &self.pool));
            self.heads.iter_mut().for_each(|head| head.reserve_prompt(plan.prompt_tokens));
        }
        let head_dim = plan.shape.attention.head_dim;
        let row_len = plan.shape.attention.kv_row();
        let append = |kv_head: usize, head: &mut HeadCache| {
            let channels = kv_head * head_dim..(kv_head + 1) * head_dim;
            for (key, value) in keys.chunks_exact(row_len).zip(values.chunks_exact(row_len)) {
                head.append(&key[channels.clone()], &value[channels.clone()]);
            }
        };
        if keys.len() < SERIAL_VALUES {
            self.heads.iter_mut().enumerate().for_each(|(kv_head, head)| append(kv_head, head));
        } else {
            parallel::for_each(&mut self.heads, append);
        }
        self.len += keys.len() / row_len;
    }

    /// Takes note of the queries (tokens, query_heads * head_dim) of tokens just appended, where the
    /// compression of the prompt will need them. `scale`: the attention scale.
    pub(crate) fn observe(&mut self, queries: &[f32], scale: f32) {
        if let Phase::Prompt(observed) = &mut self.phase {
            observed.push(queries, scale);
        }
    }

    /// Evicts, prunes, quantizes and packs once the whole prompt went through this layer. What follows is
    /// packed as it leaves the window. To be called once, after the prompt's last span.
    ///
    /// # Errors
    /// If no token was seen, or the prompt is finished already.
    pub fn finish_prompt(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.phase, Phase::Generating) {
            Phase::Prompt(observed) => {
                let (plan, layer) = (&self.plan, self.layer);
                parallel::for_each(&mut self.heads, |kv_head, head| {
                    head.compress(plan, Place { layer, kv_head }, &observed);
                });
                Ok(())
            }
            Phase::Empty => candle_core::bail!("the prompt cannot be finished before its first token"),
            Phase::Generating => candle_core::bail!("the prompt is finished already"),
        }
    }
}
