//! The cache of one KV head.

use sparkv_kernels::{BLOCK, KvRun};

use super::kv_rows::KvRows;
use super::moments::moments;
use super::observed::ObservedQueries;
use super::row_store::SharedStore;
use crate::eviction::Score;
use crate::plan::growth::{Growth, Limit};
use crate::plan::{CachePlan, QuantizePlan};
use crate::pool::KvPool;
use crate::storage::domain::{Domains, Moments, wanted};

/// Stored tokens of one KV head.
///
/// While the prompt is computed all its tokens are in `dense`. [`HeadCache::gather`] then drops, prunes and
/// quantizes. Where the plan quantizes nothing, later tokens go on in `dense`; otherwise `dense` holds sinks and
/// the recent tail, from which a block at a time is quantized as it leaves the window.
#[derive(Debug)]
pub(crate) struct HeadCache {
    /// Blocks of tokens behind the sinks and before the tail.
    quantized: Option<KvRows>,
    dense: KvRows,
    /// Dense rows that are not taken back: with fewer, more or less would be quantized than is.
    settled: usize,
    /// What is done to rows before they are quantized, once the prompt is compressed.
    domains: Option<Domains>,
    pool: KvPool,
}

/// Keys and values of one KV head that several caches may begin with.
#[derive(Clone)]
pub(crate) struct SharedHead {
    pub(crate) keys: SharedStore,
    pub(crate) values: SharedStore,
}

/// A KV head, and how many query heads share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryHeads {
    pub(super) kv_head: usize,
    pub(super) group: usize,
}

impl HeadCache {
    pub(crate) fn new(plan: &CachePlan, pool: &KvPool) -> Self {
        let dense = KvRows::new(plan.dense_keys, plan.dense_values, Growth::Share, Limit::NONE, pool);
        Self { quantized: None, dense, settled: 0, domains: None, pool: pool.clone() }
    }

    /// Bytes that the next token may allocate, a block that it quantizes included; what it frees is not counted.
    pub(crate) fn next_bytes(&self, plan: &CachePlan) -> usize {
        let quantizes = self.quantized.as_ref().filter(|_| self.room(plan) == 0);
        quantizes.map_or(0, |quantized| quantized.next_bytes(BLOCK)) + self.dense.next_bytes(1)
    }

    /// Tokens that [`HeadCache::share`] would give.
    pub(crate) fn shareable(&self) -> usize {
        if self.quantized.is_none() { self.dense.keys.shareable() } else { 0 }
    }

    /// Gives the first tokens to other caches, whole groups; they stay in this one.
    pub(crate) fn share(&mut self) -> SharedHead {
        SharedHead { keys: self.dense.keys.share(), values: self.dense.values.share() }
    }

    /// Begins with `tokens` tokens of another cache, whole groups.
    pub(crate) fn begin_with(&mut self, shared: &SharedHead, tokens: usize) {
        self.dense.keys.begin_with(&shared.keys, tokens);
        self.dense.values.begin_with(&shared.values, tokens);
    }

    /// Tokens stored.
    pub(crate) fn len(&self) -> usize {
        self.quantized.as_ref().map_or(0, KvRows::len) + self.dense.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.quantized.as_ref().map_or(0, KvRows::bytes)
            + self.dense.bytes()
            + self.domains.as_ref().map_or(0, Domains::bytes)
    }

    /// Makes room for the prompt.
    pub(crate) fn reserve_prompt(&mut self, tokens: usize) {
        self.dense.reserve(tokens);
    }

    /// Tokens that may be appended before [`HeadCache::quantize`] has to be called.
    pub(crate) fn room(&self, plan: &CachePlan) -> usize {
        match (&self.quantized, plan.quantize) {
            (Some(_), Some(quantize)) => (plan.sinks + quantize.tail_limit).saturating_sub(self.dense.len()),
            // Where a token overwrites another, those that came before it must have been attended with.
            _ => self.dense.keys.room(),
        }
    }

    /// Stores the key and value (head_dim each) of the next token.
    pub(crate) fn append(&mut self, key: &[f32], value: &[f32]) {
        self.dense.push(key, value);
    }

    /// Before more tokens are appended: quantizes the tail's first block if the tail is full. Not sooner, so that
    /// nothing is dropped before there is more to hold than a budget allows.
    pub(crate) fn quantize(&mut self, plan: &CachePlan) {
        let full = self.room(plan) == 0;
        let (Some(quantize), Some(quantized), Some(domains)) =
            (&plan.quantize, self.quantized.as_mut().filter(|_| full), &mut self.domains)
        else {
            return;
        };
        if domains.settled().is_none() {
            let tail: Vec<usize> = (plan.sinks.min(self.dense.len())..self.dense.len()).collect();
            domains.settle(quantize, wanted_moments(quantize, &self.dense, &tail));
            quantized.set_key_layout(domains.key_layout(quantize));
        }
        let len = BLOCK * plan.shape.attention.head_dim;
        let (mut keys, mut values) = (Vec::with_capacity(len), Vec::with_capacity(len));
        self.dense.keys.take_block(plan.sinks, &mut keys);
        self.dense.values.take_block(plan.sinks, &mut values);
        domains.apply(&mut keys, &mut values);
        quantized.push_block(&keys, domains.key_weights(), &values);
        // The token that this makes room for would have to come again.
        self.settled = self.dense.len() + 1;
    }

    /// What the prompt's tokens, all of which are here, score (tokens).
    pub(super) fn score(
        &self,
        score: Score,
        observed: &ObservedQueries,
        heads: QueryHeads,
    ) -> Option<Vec<f32>> {
        let QueryHeads { kv_head, group } = heads;
        match score {
            Score::WindowAttention => {
                observed.window.as_ref().map(|window| window.attention_mass(kv_head, group, &self.dense.keys))
            }
            Score::ExpectedAttention => {
                observed.sample.as_ref().map(|sample| sample.expected_attention(kv_head, group, &self.dense))
            }
        }
    }

    /// Keeps the tokens `survivors` of the prompt, in the forms that the plan says.
    pub(super) fn gather(
        &mut self,
        plan: &CachePlan,
        kv_head: usize,
        survivors: &[usize],
        observed: &ObservedQueries,
    ) {
        let (growth, limit) = plan.dense_growth();
        if survivors.len() == self.dense.len() && !plan.copies_prompt() {
            self.settled = self.dense.len();
            return;
        }
        let empty = KvRows::new(plan.dense_keys, plan.dense_values, growth, limit, &self.pool);
        let prompt = std::mem::replace(&mut self.dense, empty);
        let mut stays = survivors;
        let sinks;
        if let Some(quantize) = &plan.quantize {
            (sinks, stays) = survivors.split_at(survivors.len().min(plan.sinks));
            let (blocks, tail) = stays.split_at(quantize.quantized(stays.len(), plan.window));
            self.copy(&prompt, sinks);
            let energy = observed.window.as_ref().filter(|_| quantize.observes_queries());
            let group = plan.shape.attention.group();
            let energy = energy.map(|window| window.query_energy(kv_head, group, plan.statistic));
            let mut domains = Domains::new(quantize, energy, &self.pool);
            if !blocks.is_empty() {
                domains.settle(quantize, wanted_moments(quantize, &prompt, stays));
            }
            let limit = Limit { rows: quantize.limit, pinned: plan.pinned_rows() };
            self.quantized = Some(self.quantize_tokens(quantize, limit, &domains, &prompt, blocks));
            self.domains = Some(domains);
            stays = tail;
        } else {
            self.dense.reserve(survivors.len());
        }
        self.copy(&prompt, stays);
        self.settled = self.dense.len();
    }

    /// Stores the tokens `indices` of `prompt` as they are.
    fn copy(&mut self, prompt: &KvRows, indices: &[usize]) {
        let (mut keys, mut values) = (prompt.keys.reader(), prompt.values.reader());
        for &index in indices {
            self.dense.push(keys.row(index), values.row(index));
        }
    }

    /// Quantizes the tokens `indices` of `prompt`: whole blocks.
    fn quantize_tokens(
        &self,
        quantize: &QuantizePlan,
        limit: Limit,
        domains: &Domains,
        prompt: &KvRows,
        indices: &[usize],
    ) -> KvRows {
        let key_layout = domains.key_layout(quantize);
        let mut quantized = KvRows::new(key_layout, quantize.values, Growth::Block, limit, &self.pool);
        quantized.reserve(indices.len());
        let (mut key_rows, mut value_rows) = (prompt.keys.reader(), prompt.values.reader());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for block in indices.chunks_exact(BLOCK) {
            keys.clear();
            values.clear();
            for &index in block {
                keys.extend_from_slice(key_rows.row(index));
                values.extend_from_slice(value_rows.row(index));
            }
            domains.apply(&mut keys, &mut values);
            quantized.push_block(&keys, domains.key_weights(), &values);
        }
        quantized
    }

    /// Rows that [`HeadCache::truncate`] can take back: those that came after the prompt and after the last block was
    /// quantized, in order.
    pub(super) fn removable(&self) -> usize {
        self.dense.removable().min(self.dense.len().saturating_sub(self.settled))
    }

    /// Takes back the last `tokens` rows, at most [`HeadCache::removable`].
    pub(super) fn truncate(&mut self, tokens: usize) {
        self.dense.truncate(self.dense.len().saturating_sub(tokens));
    }

    /// Tokens in quantized blocks, the first ones stored.
    pub(crate) fn quantized_len(&self) -> usize {
        self.quantized.as_ref().map_or(0, KvRows::len)
    }

    /// The tokens in quantized blocks, as contiguous runs.
    pub(crate) fn quantized_runs(&self) -> Vec<KvRun<'_>> {
        let scaled = self.domains.as_ref().is_some_and(Domains::scales_queries);
        self.quantized.iter().flat_map(|quantized| quantized.runs(scaled)).collect()
    }

    /// The dense tokens, likewise.
    pub(crate) fn dense_runs(&self) -> Vec<KvRun<'_>> {
        self.dense.runs(false).collect()
    }

    /// What was done to rows in quantized blocks, where there are any.
    pub(super) fn domains(&self) -> Option<&Domains> {
        self.domains.as_ref()
    }
}

/// What domains are settled by, of the tokens `indices` of `rows`: of keys, and of values.
fn wanted_moments(quantize: &QuantizePlan, rows: &KvRows, indices: &[usize]) -> [Moments; 2] {
    let head_dim = quantize.keys.head_dim();
    let [keys, values] = wanted(quantize);
    [moments(&rows.keys, indices, head_dim, keys), moments(&rows.values, indices, head_dim, values)]
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use candle_core::{Device, Tensor, safetensors};

    use super::*;
    use crate::settings::testing::settings;
    use crate::shape::{AttentionConfig, KvShape};

    /// What becomes of a prompt of the first layer.
    fn compress(head: &mut HeadCache, plan: &CachePlan, kv_head: usize, observed: &ObservedQueries) {
        let heads = QueryHeads { kv_head, group: plan.shape.attention.group() };
        let scores = plan.survivors.score().and_then(|score| head.score(score, observed, heads));
        let survivors = plan.survivors_of(0, head.len(), scores.as_deref());
        head.gather(plan, kv_head, &survivors, observed);
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
        // Not by a macro, whose output a test that passes hides.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: {} is missing\n", path.display()),
        );
        None
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.to_vec2().unwrap()
    }

    /// The tokens of `head` as attention sees them, keys back in their own domain.
    fn recovered_keys(head: &HeadCache) -> Vec<Vec<f32>> {
        let head_dim = head.dense.keys.reader().row(0).len();
        let mut keys = Vec::new();
        for run in head.quantized.iter().flat_map(|quantized| quantized.keys.runs()) {
            let domains = head.domains.as_ref().unwrap();
            keys.extend(run.decode().chunks_exact(head_dim).map(|row| domains.restored_key(row)));
        }
        let mut dense = head.dense.keys.reader();
        keys.extend((0..head.dense.len()).map(|index| dense.row(index).to_vec()));
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
            let mut observed = ObservedQueries::new(&plan, 0, &KvPool::default());
            let by_position = queries.transpose(0, 1).unwrap().contiguous().unwrap();
            observed.push(&by_position.flatten_all().unwrap().to_vec1::<f32>().unwrap(), 1.0);
            for kv_head in 0..kv_heads {
                let mut head = HeadCache::new(&plan, &KvPool::default());
                let zeros = vec![0.0; head_dim];
                for key in rows(&keys.get(kv_head).unwrap()) {
                    head.append(&key, &zeros);
                }
                // The recent window stays dense; the reference prunes every token it is given.
                (0..slots).for_each(|_| head.append(&zeros, &zeros));
                compress(&mut head, &plan, kv_head, &observed);
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
        let mut head = HeadCache::new(plan, &KvPool::default());
        head.reserve_prompt(tokens);
        for token in 0..tokens {
            head.append(&[token as f32; 8], &[token as f32; 8]);
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
        compress(&mut head, &plan, 0, &ObservedQueries::new(&plan, 0, &KvPool::default()));
        for token in 200..500 {
            head.append(&[token as f32; 8], &[token as f32; 8]);
            head.quantize(&plan);
            let mut stored = tokens(&head);
            // The store is a ring: its order is not that of time.
            stored.sort_unstable();
            let recent = token + 1 - (stored.len() - 4)..token + 1;
            assert_eq!(stored, (0..4).chain(recent).collect::<Vec<_>>());
            assert_eq!(stored.len(), 80);
        }
    }

    /// By what is left, after the prompt and at every length of an answer.
    #[test]
    fn a_system_prompt_stays() {
        for json in [
            r#"{"eviction": {"policy": "streaming", "max_tokens": 100}, "window": 16}"#,
            r#"{"eviction": {"policy": "streaming", "max_tokens": 150}, "window": 16, "precision": "int8"}"#,
            r#"{"eviction": {"policy": "snapkv", "max_tokens": 100}, "window": 16}"#,
            r#"{"eviction": {"policy": "snapkv", "max_tokens": 150}, "window": 16, "precision": "int8"}"#,
        ] {
            let kept = settings(json).with_system_tokens(40);
            let plan = CachePlan::new(shape(1, 1, 8), &kept, 200).unwrap();
            let mut head = filled(&plan, 200);
            compress(&mut head, &plan, 0, &ObservedQueries::new(&plan, 0, &KvPool::default()));
            for token in 200..600 {
                let stored: Vec<usize> =
                    recovered_keys(&head).into_iter().map(|key| key[0].round() as usize).collect();
                let first = stored.iter().filter(|token| **token < 40).count();
                assert_eq!(first, 40, "{json} at {token}: {stored:?}");
                if json.contains("streaming") {
                    assert!(stored.len() <= 150, "{json}: {}", stored.len());
                }
                head.append(&[token as f32; 8], &[token as f32; 8]);
                head.quantize(&plan);
            }
            // Not if that is not wanted.
            let dropping = json.replace("\"max_tokens\"", "\"keep_system\": false, \"max_tokens\"");
            let dropped = settings(&dropping).with_system_tokens(40);
            let plan = CachePlan::new(shape(1, 1, 8), &dropped, 200).unwrap();
            assert_eq!(plan.protected, 0);
        }
        // As much as there is room for.
        let few = r#"{"eviction": {"policy": "snapkv", "max_tokens": 100}, "window": 16}"#;
        let settings = settings(few).with_system_tokens(1000);
        let plan = CachePlan::new(shape(1, 1, 8), &settings, 2000).unwrap();
        let survivors = plan.survivors_of(0, 2000, Some(&vec![0.0; 2000]));
        let kept: Vec<usize> = (0..84).chain(1984..2000).collect();
        assert_eq!(survivors, kept);
    }

    #[test]
    fn snapkv_keeps_what_the_window_attends_to() {
        let json = r#"{"eviction": {"policy": "snapkv", "max_tokens": 20}, "window": 4, "sinks": 2}"#;
        let plan = plan(json, 100);
        let mut head = HeadCache::new(&plan, &KvPool::default());
        let mut observed = ObservedQueries::new(&plan, 0, &KvPool::default());
        for token in 0..100 {
            let mut key = [0.0; 8];
            key[0] = token as f32;
            key[1] = if token == 50 { 1.0 } else { 0.0 };
            head.append(&key, &[0.0; 8]);
            observed.push(&[0.0, 20.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0);
        }
        compress(&mut head, &plan, 0, &observed);
        let stored = tokens(&head);
        assert_eq!(stored.len(), 20);
        // Sinks, the pooled neighbourhood of the attended token, the window; the rest are ties, the earliest.
        let expected: Vec<usize> = (0..11).chain(48..53).chain(96..100).collect();
        assert_eq!(stored, expected);
    }

    /// Most of the prompt looks for one token, its end for another: which one stays is the difference.
    #[test]
    fn expected_attention_keeps_what_all_of_the_prompt_attends_to() {
        let kept = |policy: &str| {
            let plan = plan(
                &format!(
                    r#"{{"eviction": {{"policy": "{policy}", "max_tokens": 11}}, "window": 4, "sinks": 2}}"#
                ),
                100,
            );
            let mut head = HeadCache::new(&plan, &KvPool::default());
            let mut observed = ObservedQueries::new(&plan, 0, &KvPool::default());
            for token in 0..100 {
                let (mut key, mut query) = ([0.0; 8], [0.0; 8]);
                key[0] = token as f32;
                key[1] = if token == 50 { 1.0 } else { 0.0 };
                key[2] = if token == 70 { 1.0 } else { 0.0 };
                query[if token < 96 { 1 } else { 2 }] = 20.0;
                head.append(&key, &[1.0; 8]);
                observed.push(&query, 1.0);
            }
            compress(&mut head, &plan, 0, &observed);
            tokens(&head)
        };
        let around = |token: usize| [0, 1].into_iter().chain(token - 2..token + 3).chain(96..100);
        assert_eq!(kept("snapkv"), around(70).collect::<Vec<_>>());
        assert_eq!(kept("expected_attention"), around(50).collect::<Vec<_>>());
    }
}
