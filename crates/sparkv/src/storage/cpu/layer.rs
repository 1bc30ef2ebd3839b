//! One layer's rows of one sequence, in the process's memory.

use candle_core::Result;

use super::head::{HeadCache, QueryHeads, SharedHead};
use super::observed::ObservedQueries;
use crate::eviction::Score;
use crate::parallel;
use crate::plan::CachePlan;
use crate::pool::KvPool;
use crate::storage::LayerStorage;

/// Values below which a second thread costs more than it brings: some ten microseconds of work.
const SERIAL_VALUES: usize = 1 << 14;

/// A [`HeadCache`] for each KV head.
#[derive(Debug)]
pub(crate) struct CpuLayer {
    pub(super) heads: Vec<HeadCache>,
    /// What the compression of the prompt will need to know of its queries, while it is computed.
    observed: Option<ObservedQueries>,
    pool: KvPool,
}

impl CpuLayer {
    /// Nothing stored yet; what will be counts in `pool`.
    pub(crate) fn new(plan: &CachePlan, pool: &KvPool) -> Self {
        let heads = (0..plan.shape.attention.kv_heads).map(|_| HeadCache::new(plan, pool)).collect();
        Self { heads, observed: None, pool: pool.clone() }
    }
}

impl LayerStorage for CpuLayer {
    type Rows<'a> = &'a [f32];
    type Shared = Vec<SharedHead>;

    fn len(&self) -> usize {
        self.heads.first().map_or(0, HeadCache::len)
    }

    fn bytes(&self) -> usize {
        let observed = self.observed.as_ref().map_or(0, ObservedQueries::bytes);
        self.heads.iter().map(HeadCache::bytes).sum::<usize>() + observed
    }

    fn next_bytes(&self, plan: &CachePlan) -> usize {
        self.heads.first().map_or(0, |head| head.next_bytes(plan)) * self.heads.len()
    }

    fn room(&self, plan: &CachePlan) -> usize {
        self.heads.first().map_or(usize::MAX, |head| head.room(plan))
    }

    fn begin_prompt(&mut self, plan: &CachePlan, first: usize) -> Result<()> {
        self.observed = Some(ObservedQueries::new(plan, first, &self.pool));
        self.heads.iter_mut().for_each(|head| head.reserve_prompt(plan.prompt_tokens));
        Ok(())
    }

    fn append(&mut self, plan: &CachePlan, _: usize, keys: &[f32], values: &[f32]) -> Result<()> {
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
        Ok(())
    }

    fn observe(&mut self, plan: &CachePlan, _: usize, queries: &[f32]) -> Result<()> {
        if let Some(observed) = &mut self.observed {
            observed.push(queries, plan.shape.attention.scale);
        }
        Ok(())
    }

    fn score(&self, plan: &CachePlan, score: Score) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(observed) = &self.observed else { return Ok(None) };
        let group = plan.shape.attention.group();
        let scores = parallel::map(self.heads.len(), |kv_head| {
            self.heads[kv_head].score(score, observed, QueryHeads { kv_head, group })
        });
        Ok(scores.into_iter().collect())
    }

    fn gather(&mut self, plan: &CachePlan, survivors: &[Vec<usize>]) -> Result<()> {
        let Some(observed) = self.observed.take() else { return Ok(()) };
        parallel::for_each(&mut self.heads, |kv_head, head| {
            if let Some(survivors) = survivors.get(kv_head) {
                head.gather(plan, kv_head, survivors, &observed);
            }
        });
        Ok(())
    }

    fn quantize(&mut self, plan: &CachePlan) -> Result<()> {
        self.heads.iter_mut().for_each(|head| head.quantize(plan));
        Ok(())
    }

    fn removable(&self) -> usize {
        self.heads.iter().map(HeadCache::removable).min().unwrap_or(0)
    }

    fn truncate(&mut self, tokens: usize) {
        self.heads.iter_mut().for_each(|head| head.truncate(tokens));
    }

    fn shareable(&self) -> usize {
        self.heads.iter().map(HeadCache::shareable).min().unwrap_or(0)
    }

    fn share(&mut self) -> Vec<SharedHead> {
        self.heads.iter_mut().map(HeadCache::share).collect()
    }

    fn fits(shared: &Vec<SharedHead>, plan: &CachePlan) -> bool {
        shared.len() == plan.shape.attention.kv_heads
            && shared
                .iter()
                .all(|head| head.keys.layout == plan.dense_keys && head.values.layout == plan.dense_values)
    }

    fn begin_with(&mut self, shared: &Vec<SharedHead>, tokens: usize) {
        self.heads.iter_mut().zip(shared).for_each(|(head, shared)| head.begin_with(shared, tokens));
    }
}
