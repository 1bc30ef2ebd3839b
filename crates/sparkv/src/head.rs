//! The cache of one KV head.

use sparkv_kernels::KvRun;

use crate::plan::{CachePlan, Survivors};
use crate::rows::{Growth, KvRows};
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
        let dense = |growth, limit| KvRows::new(plan.dense, plan.dense, growth, limit);
        Self {
            sinks: dense(Growth::Tail, plan.sinks),
            prefix: dense(Growth::Share, usize::MAX),
            tail: dense(Growth::Tail, usize::MAX),
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

    /// Tokens that may be appended before [`HeadCache::settle`] has to be called; none if it is due.
    pub(crate) fn room(&self, plan: &CachePlan) -> usize {
        if self.compressed && plan.has_tail {
            plan.tail_limit().saturating_sub(self.tail.len())
        } else {
            usize::MAX
        }
    }

    /// Stores the key and value (head_dim each) of the next token.
    pub(crate) fn append(&mut self, plan: &CachePlan, key: &[f32], value: &[f32]) {
        if self.compressed && plan.has_tail {
            self.tail.push(key, value);
        } else {
            self.prefix.push(key, value);
        }
    }

    /// Before more tokens are appended: packs the tail's first block if the tail is full. Not sooner, so that
    /// nothing is dropped before there is more to hold than a budget allows.
    pub(crate) fn settle(&mut self, plan: &CachePlan) {
        if self.room(plan) > 0 {
            return;
        }
        let (keys, values) = (self.tail.keys.take_block(), self.tail.values.take_block());
        let dense = plan.dense;
        let (mut key, mut value) = (vec![0.0; dense.head_dim()], vec![0.0; dense.head_dim()]);
        let rows = keys.chunks_exact(dense.row_bytes()).zip(values.chunks_exact(dense.row_bytes()));
        for (key_bytes, value_bytes) in rows {
            dense.decode(key_bytes, &mut key);
            dense.decode(value_bytes, &mut value);
            if self.sinks.len() < plan.sinks {
                self.sinks.push(&key, &value);
            } else {
                self.pack(&mut key, &value);
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
            let energy =
                window.map(|w| w.query_energy(kv_head, plan.shape.attention.group(), plan.statistic));
            self.key_scaling = energy.map(key_scaling);
        }
        let sinks = if plan.has_tail { survivors.len().min(plan.sinks) } else { 0 };
        let in_tail = if plan.has_tail { (survivors.len() - sinks).min(plan.window) } else { 0 };
        let packed = sinks..survivors.len() - in_tail;
        let empty = KvRows::new(plan.keys, plan.values, plan.prefix_growth(), plan.prefix_limit);
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
                let mass = window.attention_mass(kv_head, plan.shape.attention.group(), &self.prefix.keys);
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use candle_core::{Device, Tensor, safetensors};

    use super::*;
    use crate::attention::AttentionConfig;
    use crate::plan::KvShape;
    use crate::settings::PACK_BLOCK;
    use crate::settings::{KvChoice, KvSettings, Presets};

    fn settings(json: &str) -> KvSettings {
        let options = serde_json::from_str(json).unwrap();
        match Presets::built_in().unwrap().resolve(&options).unwrap() {
            KvChoice::Fixed(settings) => settings,
            KvChoice::Budget(budget) => panic!("{budget} is a budget"),
        }
    }

    fn shape(query_heads: usize, kv_heads: usize, head_dim: usize) -> KvShape {
        let attention = AttentionConfig { query_heads, kv_heads, head_dim, scale: 1.0, sliding_window: None };
        KvShape { layers: 1, attention }
    }

    /// Material that is not part of the repository; its absence is an error on CI only.
    fn shared(file: &str) -> Option<PathBuf> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
        let path = std::env::var_os("SPARKV_SHARED").map_or(default, PathBuf::from).join(file);
        if path.exists() {
            return Some(path);
        }
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{} is missing", path.display());
        eprintln!("skipped: {} is missing", path.display());
        None
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.to_vec2().unwrap()
    }

    /// The tokens of `head` as attention sees them, keys back in their own domain.
    fn recovered_keys(head: &HeadCache) -> Vec<Vec<f32>> {
        let scaling = head.key_scaling.as_deref();
        let mut keys = Vec::new();
        for (store, scaled) in [(&head.sinks, false), (&head.prefix, true), (&head.tail, false)] {
            store.keys.for_each(|_, key| {
                let factors = scaling.filter(|_| scaled);
                let unscale = |(channel, k): (usize, &f32)| k / factors.map_or(1.0, |f| f[channel]);
                keys.push(key.iter().enumerate().map(unscale).collect());
            });
        }
        keys
    }

    /// Selection and recovery against the outputs of the SparK authors' reference code.
    #[test]
    fn keys_are_recovered_as_by_the_authors() {
        let Some(path) = shared("data/spark_reference.safetensors") else { return };
        let tensors = safetensors::load(path, &Device::Cpu).unwrap();
        for (head_dim, percent) in [(64, 50), (64, 75), (64, 80), (128, 50), (128, 75), (128, 80)] {
            let tensor = |name: &str| tensors[&format!("d{head_dim}.{name}")].clone();
            let (queries, keys) = (tensor("q_window"), tensor("k"));
            let expected = tensor(&format!("r{percent}.k_recovered"));
            let (kv_heads, tokens, _) = keys.dims3().unwrap();
            let (query_heads, slots, _) = queries.dims3().unwrap();
            let shape = shape(query_heads, kv_heads, head_dim);
            let settings = settings(&format!(
                r#"{{"pruning": {{"key_ratio": 0.{percent}, "query_statistic": "mean"}},
                    "precision": "f32", "window": {slots}, "sinks": 0}}"#
            ));
            let plan = CachePlan::new(shape, &settings, tokens + slots).unwrap();
            let mut window = ObservationWindow::new(slots, query_heads, head_dim);
            let by_position = queries.transpose(0, 1).unwrap().contiguous().unwrap();
            window.push(&by_position.flatten_all().unwrap().to_vec1::<f32>().unwrap(), 1.0);
            for kv_head in 0..kv_heads {
                let mut head = HeadCache::new(&plan);
                let zeros = vec![0.0; head_dim];
                for key in rows(&keys.get(kv_head).unwrap()) {
                    head.append(&plan, &key, &zeros);
                }
                // The recent window stays dense; the reference prunes every token it is given.
                (0..slots).for_each(|_| head.append(&plan, &zeros, &zeros));
                head.compress(&plan, kv_head, Some(&window));
                let recovered = recovered_keys(&head);
                let expected = rows(&expected.get(kv_head).unwrap());
                let worst = recovered
                    .iter()
                    .flatten()
                    .zip(expected.iter().flatten())
                    .map(|(ours, theirs)| (ours - theirs).abs())
                    .fold(0.0, f32::max);
                assert_eq!(recovered.len(), tokens + slots);
                assert!(worst < 1e-5, "D {head_dim}, ratio .{percent}: off by {worst}");
            }
        }
    }

    fn filled(plan: &CachePlan, tokens: usize) -> HeadCache {
        let mut head = HeadCache::new(plan);
        head.reserve_prompt(tokens);
        for token in 0..tokens {
            head.append(plan, &[token as f32; 8], &[token as f32; 8]);
        }
        head
    }

    fn plan(json: &str, prompt_tokens: usize) -> CachePlan {
        CachePlan::new(shape(1, 1, 8), &settings(json), prompt_tokens).unwrap()
    }

    /// First channel of the stored keys: the number of the token.
    fn tokens(head: &HeadCache) -> Vec<usize> {
        recovered_keys(head).into_iter().map(|key| key[0] as usize).collect()
    }

    #[test]
    fn streaming_keeps_sinks_and_the_most_recent_while_generating() {
        let json = r#"{"eviction": {"policy": "streaming", "max_tokens": 80}, "window": 16}"#;
        let plan = plan(json, 200);
        let mut head = filled(&plan, 200);
        head.compress(&plan, 0, None);
        for token in 200..500 {
            head.append(&plan, &[token as f32; 8], &[token as f32; 8]);
            head.settle(&plan);
            let mut stored = tokens(&head);
            // The prefix is a ring: its order is not that of time.
            stored.sort_unstable();
            let recent = token + 1 - (stored.len() - 4)..token + 1;
            assert_eq!(stored, (0..4).chain(recent).collect::<Vec<_>>());
            assert!((80 - PACK_BLOCK..=80).contains(&stored.len()));
        }
    }

    #[test]
    fn snapkv_keeps_what_the_window_attends_to() {
        let json = r#"{"eviction": {"policy": "snapkv", "max_tokens": 20}, "window": 4, "sinks": 2}"#;
        let plan = plan(json, 100);
        let mut head = HeadCache::new(&plan);
        let mut window = ObservationWindow::new(4, 1, 8);
        for token in 0..100 {
            let mut key = [0.0; 8];
            key[0] = token as f32;
            key[1] = if token == 50 { 1.0 } else { 0.0 };
            head.append(&plan, &key, &[0.0; 8]);
            window.push(&[0.0, 20.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0);
        }
        head.compress(&plan, 0, Some(&window));
        let stored = tokens(&head);
        assert_eq!(stored.len(), 20);
        // Sinks, the pooled neighbourhood of the attended token, the window; the rest are ties, the earliest.
        let expected: Vec<usize> = (0..11).chain(48..53).chain(96..100).collect();
        assert_eq!(stored, expected);
    }
}
