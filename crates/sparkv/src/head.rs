//! The cache of one KV head.

use sparkv_kernels::KvRun;

use crate::plan::{CachePlan, Survivors};
use crate::rows::KvRows;
use crate::settings::PACK_BLOCK;
use crate::window::{ObservationWindow, key_scaling, pool};

/// Stored tokens of one KV head, oldest first: sinks, prefix, tail.
///
/// While the prompt is computed all its tokens are in `prefix`, dense. [`HeadCache::compress`] then drops,
/// prunes and packs. Where the plan has no tail, later tokens go on in `prefix`; otherwise they enter the
/// dense tail and are packed a block at a time as they leave the window.
#[derive(Debug)]
pub(crate) struct HeadCache {
    sinks: KvRows,
    prefix: KvRows,
    tail: KvRows,
    /// (head_dim) sqrt(n), by which keys in `prefix` are multiplied, once they are packed.
    key_scaling: Option<Box<[f32]>>,
    compressed: bool,
}

impl HeadCache {
    pub(crate) fn new(plan: &CachePlan) -> Self {
        let dense = || KvRows::new(plan.dense, plan.dense, usize::MAX);
        Self {
            sinks: KvRows::new(plan.dense, plan.dense, plan.sinks),
            prefix: dense(),
            tail: dense(),
            key_scaling: None,
            compressed: false,
        }
    }

    /// Tokens stored.
    pub(crate) fn len(&self) -> usize {
        self.sinks.len() + self.prefix.len() + self.tail.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let scaling = self.key_scaling.as_deref().map_or(0, size_of_val);
        self.sinks.bytes() + self.prefix.bytes() + self.tail.bytes() + scaling
    }

    /// Makes room for the prompt, exactly.
    pub(crate) fn reserve_prompt(&mut self, tokens: usize) {
        self.prefix.reserve(tokens);
    }

    /// Tokens that may be appended before [`HeadCache::settle`] has to be called.
    pub(crate) fn room(&self, plan: &CachePlan) -> usize {
        if self.compressed && plan.has_tail { plan.tail_limit() - self.tail.len() } else { usize::MAX }
    }

    /// Stores the key and value (head_dim each) of the next token.
    pub(crate) fn append(&mut self, plan: &CachePlan, key: &[f32], value: &[f32]) {
        if self.compressed && plan.has_tail {
            self.tail.push(key, value);
        } else {
            self.prefix.push(key, value);
        }
    }

    /// After the attention of appended tokens: packs the tail's first block if the tail is full.
    pub(crate) fn settle(&mut self, plan: &CachePlan) {
        if self.tail.len() < plan.tail_limit() {
            return;
        }
        let blocks = (self.tail.keys.take_block(), self.tail.values.take_block());
        if let (Some(keys), Some(values)) = blocks {
            let dense = plan.dense;
            let (mut key, mut value) = (vec![0.0; dense.head_dim()], vec![0.0; dense.head_dim()]);
            let rows = keys.chunks_exact(dense.row_bytes()).zip(values.chunks_exact(dense.row_bytes()));
            for (key_bytes, value_bytes) in rows.take(PACK_BLOCK) {
                dense.decode(key_bytes, &mut key);
                dense.decode(value_bytes, &mut value);
                if self.sinks.len() < plan.sinks {
                    self.sinks.push(&key, &value);
                } else {
                    self.pack(&mut key, &value);
                }
            }
        }
    }

    /// Stores a token in the prefix; `key` is scaled in place.
    fn pack(&mut self, key: &mut [f32], value: &[f32]) {
        if let Some(scaling) = &self.key_scaling {
            key.iter_mut().zip(scaling).for_each(|(key, factor)| *key *= factor);
        }
        self.prefix.push(key, value);
    }

    /// Compresses the prompt's dense tokens as the plan says. `window` holds the prompt's last queries where
    /// the plan observes them.
    pub(crate) fn compress(&mut self, plan: &CachePlan, kv_head: usize, window: Option<&ObservationWindow>) {
        self.compressed = true;
        let prompt_tokens = self.prefix.len();
        let survivors = self.survivors(plan, kv_head, window);
        if survivors.len() == prompt_tokens && !plan.has_tail {
            return;
        }
        if plan.scales_keys() {
            let energy = window.map(|w| w.query_energy(kv_head, plan.group(), plan.statistic));
            self.key_scaling = energy.map(key_scaling);
        }
        let sinks = if plan.has_tail { survivors.len().min(plan.sinks) } else { 0 };
        let in_tail = if plan.has_tail { (survivors.len() - sinks).min(plan.window) } else { 0 };
        let packed = sinks..survivors.len() - in_tail;
        let empty = KvRows::new(plan.keys, plan.values, plan.prefix_limit);
        let prompt = std::mem::replace(&mut self.prefix, empty);
        self.sinks.reserve(sinks);
        self.prefix.reserve(packed.len());

        let mut kept = survivors.into_iter().enumerate().peekable();
        let mut key = vec![0.0; plan.dense.head_dim()];
        let mut keys = prompt.keys.rows();
        let mut values = prompt.values.rows();
        let mut value = key.clone();
        for index in 0..prompt_tokens {
            let (Some(key_bytes), Some(value_bytes)) = (keys.next(), values.next()) else { break };
            let Some((rank, _)) = kept.next_if(|(_, survivor)| *survivor == index) else { continue };
            plan.dense.decode(key_bytes, &mut key);
            plan.dense.decode(value_bytes, &mut value);
            if rank < packed.start {
                self.sinks.push(&key, &value);
            } else if rank < packed.end {
                self.pack(&mut key, &value);
            } else {
                self.tail.push(&key, &value);
            }
        }
    }

    /// Indices of the prompt's tokens that stay, in order.
    fn survivors(&self, plan: &CachePlan, kv_head: usize, window: Option<&ObservationWindow>) -> Vec<usize> {
        let prompt_tokens = self.prefix.len();
        let count = plan.survivors.count(prompt_tokens);
        if count == prompt_tokens {
            return (0..prompt_tokens).collect();
        }
        let sinks = plan.sinks.min(count);
        let recent = match (plan.survivors, window) {
            (Survivors::HeavyHitters(_), Some(window)) => {
                let mass = window.attention_mass(kv_head, plan.group(), &self.prefix.keys);
                let candidates = sinks..prompt_tokens - plan.window.min(count - sinks);
                let mass = pool(&mass[..candidates.end]);
                let heavy =
                    largest(&mass, candidates.clone(), count - sinks - (prompt_tokens - candidates.end));
                return (0..sinks).chain(heavy).chain(candidates.end..prompt_tokens).collect();
            }
            _ => prompt_tokens - (count - sinks),
        };
        (0..sinks).chain(recent..prompt_tokens).collect()
    }

    /// The tokens stored, as contiguous runs, oldest first.
    pub(crate) fn runs(&self) -> Vec<KvRun<'_>> {
        let scaled = self.key_scaling.is_some();
        self.sinks.runs(false).chain(self.prefix.runs(scaled)).chain(self.tail.runs(false)).collect()
    }

    /// `query` (head_dim) as keys in the scaled domain want it, if there are any.
    pub(crate) fn scale_query(&self, query: &[f32]) -> Option<impl Iterator<Item = f32>> {
        let scaling = self.key_scaling.as_deref()?;
        Some(query.iter().zip(scaling).map(|(q, factor)| q / factor))
    }
}

/// The `count` indices among `candidates` with the largest `mass`, in ascending order; among equals the
/// earlier.
fn largest(mass: &[f32], candidates: std::ops::Range<usize>, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = candidates.collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, |&a, &b| mass[b].total_cmp(&mass[a]).then(a.cmp(&b)));
        indices.truncate(count);
        indices.sort_unstable();
    }
    indices
}
