//! One layer's rows of one sequence on a device.

use candle_core::{Result, Tensor};
use sparkv_device::rows::Units;
use sparkv_device::{DeviceError, View};
use sparkv_kernels::BLOCK;

use super::domains::DeviceDomains;
use super::memory::DeviceMemory;
use super::observed::ObservedQueries;
use super::rows::{self, places, with_places};
use super::store::{SharedStore, Slot, Store};
use crate::accelerator::{failed, read};
use crate::eviction::Score;
use crate::plan::growth::{Growth, Limit};
use crate::plan::{CachePlan, QuantizePlan};
use crate::pool::KvPool;
use crate::storage::LayerStorage;

/// As the CPU's heads together: while the prompt is computed all its tokens are in `dense`; [`DeviceLayer::gather`] drops and
/// quantizes. Where the plan quantizes nothing, later tokens go on in `dense`; otherwise `dense` holds sinks and the recent
/// tail, from which a block at a time is quantized as it leaves the window.
#[derive(Debug)]
pub(crate) struct DeviceLayer {
    /// Blocks of tokens behind the sinks and before the tail.
    quantized: Option<Store>,
    dense: Store,
    /// Dense rows that are not taken back: with fewer, more or less would be quantized than is.
    settled: usize,
    /// What is done to rows before they are quantized, once the prompt is compressed.
    domains: Option<DeviceDomains>,
    /// What the compression of the prompt will need to know of its queries, while it is computed.
    observed: Option<ObservedQueries>,
    /// What failed where nothing could be said.
    failure: Option<candle_core::Error>,
    pool: KvPool,
}

impl DeviceLayer {
    /// Nothing stored yet; what will be is in the memory of `pool`.
    pub(crate) fn new(plan: &CachePlan, pool: &KvPool) -> Self {
        Self {
            quantized: None,
            dense: Store::new(dense_units(plan), Growth::Share, Limit::NONE, pool),
            settled: 0,
            domains: None,
            observed: None,
            failure: None,
            pool: pool.clone(),
        }
    }

    /// The memory that it is in.
    pub(crate) fn memory(&self) -> Result<&DeviceMemory> {
        self.pool.memory().ok_or_else(|| failed(DeviceError::Missing { what: "memory for caches" }))
    }

    /// Rows that are quantized.
    pub(super) fn quantized(&self) -> Option<&Store> {
        self.quantized.as_ref()
    }

    /// Rows that are dense.
    pub(in crate::storage) fn dense(&self) -> &Store {
        &self.dense
    }

    /// What was done to the quantized rows.
    pub(super) fn domains(&self) -> Option<&DeviceDomains> {
        self.domains.as_ref()
    }

    /// Stores rows of the process's memory; see [`super::super::Layer::store`].
    pub(crate) fn store(&mut self, plan: &CachePlan, [keys, values, queries]: [&[f32]; 3]) -> Result<()> {
        let attention = plan.shape.attention;
        let tensors = self.memory()?.accelerator().tensors().clone();
        let tokens = keys.len() / attention.kv_row();
        let tensor = |rows: &[f32]| Tensor::from_slice(rows, rows.len(), &tensors);
        let (keys, values) = (tensor(keys)?, tensor(values)?);
        read(&keys, |keys| read(&values, |values| self.append(plan, tokens, keys, values)))?;
        if queries.is_empty() {
            return Ok(());
        }
        read(&tensor(queries)?, |queries| self.observe(plan, tokens, queries))
    }

    /// Copies rows of `from`, the same tokens of each KV head or others of each, behind the dense ones.
    fn copy(&mut self, from: &Store, indices: &[&[usize]]) -> Result<()> {
        let sources: Vec<Vec<Slot>> =
            indices.iter().map(|indices| from.slots(indices.iter().copied())).collect();
        let mut targets = Vec::new();
        for _ in 0..indices.first().map_or(0, |indices| indices.len()) {
            targets.extend(self.dense.add(1).map_err(failed)?);
        }
        let memory = self.memory()?;
        rows::copy(memory, &from.units, &sources, &targets)
    }

    /// Settles the domains, if they are not, by the tokens `indices` of `store`.
    fn settle(
        memory: &DeviceMemory,
        domains: &mut DeviceDomains,
        quantize: &QuantizePlan,
        store: &Store,
        indices: &[&[usize]],
    ) -> Result<()> {
        if domains.is_settled() {
            return Ok(());
        }
        let slots: Vec<Vec<Slot>> =
            indices.iter().map(|indices| store.slots(indices.iter().copied())).collect();
        with_places(&slots, |places| domains.settle(memory, quantize, &store.units, places))
    }
}

impl LayerStorage for DeviceLayer {
    type Rows<'a> = View<'a>;
    type Shared = SharedStore;

    fn len(&self) -> usize {
        self.quantized.as_ref().map_or(0, Store::len) + self.dense.len()
    }

    fn bytes(&self) -> usize {
        self.quantized.as_ref().map_or(0, Store::bytes)
            + self.dense.bytes()
            + self.domains.as_ref().map_or(0, DeviceDomains::bytes)
            + self.observed.as_ref().map_or(0, ObservedQueries::bytes)
    }

    fn next_bytes(&self, plan: &CachePlan) -> usize {
        let quantizes = self.quantized.as_ref().filter(|_| self.room(plan) == 0);
        quantizes.map_or(0, |quantized| quantized.next_bytes(BLOCK)) + self.dense.next_bytes(1)
    }

    fn room(&self, plan: &CachePlan) -> usize {
        match (&self.quantized, plan.quantize) {
            (Some(_), Some(quantize)) => (plan.sinks + quantize.tail_limit).saturating_sub(self.dense.len()),
            // Where a token overwrites another, those that came before it must have been attended with.
            _ => self.dense.room(),
        }
    }

    fn begin_prompt(&mut self, plan: &CachePlan, first: usize) -> Result<()> {
        self.observed = Some(ObservedQueries::new(plan, first, &self.pool)?);
        self.dense.reserve(plan.prompt_tokens).map_err(failed)
    }

    fn append(&mut self, plan: &CachePlan, tokens: usize, keys: View<'_>, values: View<'_>) -> Result<()> {
        let mut slots = Vec::with_capacity(tokens);
        for _ in 0..tokens {
            slots.extend(self.dense.add(1).map_err(failed)?);
        }
        debug_assert_eq!(self.dense.units, dense_units(plan));
        let memory = self.memory()?;
        let units = &self.dense.units;
        sparkv_device::append(memory.device(), units, memory.view(), [keys, values], &places(&slots))
            .map_err(failed)
    }

    fn observe(&mut self, plan: &CachePlan, tokens: usize, queries: View<'_>) -> Result<()> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let taken = observed.take(tokens);
        let (Some(to), Some(memory)) = (observed.rows(), self.pool.memory()) else { return Ok(()) };
        rows::observe(memory, &plan.shape.attention, &self.dense.units, [queries, to?], &taken)
    }

    fn score(&self, plan: &CachePlan, score: Score) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(observed) = &self.observed else { return Ok(None) };
        rows::score(self.memory()?, &plan.shape.attention, score, observed, &self.dense)
    }

    fn gather(&mut self, plan: &CachePlan, survivors: &[Vec<usize>]) -> Result<()> {
        let Some(observed) = self.observed.take() else { return Ok(()) };
        let kept = survivors.first().map_or(0, Vec::len);
        if kept == self.dense.len() && !plan.copies_prompt() {
            self.settled = kept;
            return Ok(());
        }
        let (growth, limit) = plan.dense_growth();
        let empty = Store::new(dense_units(plan), growth, limit, &self.pool);
        let prompt = std::mem::replace(&mut self.dense, empty);
        let survivors = distinct(survivors);
        let part = |range: std::ops::Range<usize>| -> Vec<&[usize]> {
            survivors.iter().filter_map(|indices| indices.get(range.clone())).collect()
        };
        let mut tail = 0;
        if let Some(quantize) = &plan.quantize {
            let sinks = kept.min(plan.sinks);
            tail = sinks + quantize.quantized(kept - sinks, plan.window);
            self.copy(&prompt, &part(0..sinks))?;
            let memory = self.memory()?.clone();
            let mut domains = DeviceDomains::new(&memory, plan, quantize, &observed, &self.pool)?;
            if tail > sinks {
                Self::settle(&memory, &mut domains, quantize, &prompt, &part(sinks..kept))?;
            }
            let units =
                Units { keys: quantize.keys, values: quantize.values, heads: plan.shape.attention.kv_heads };
            let limit = Limit { rows: quantize.limit, pinned: plan.pinned_rows() };
            let mut quantized = Store::new(units, Growth::Block, limit, &self.pool);
            quantized.reserve(tail - sinks).map_err(failed)?;
            quantize_rows(&memory, &domains, &prompt, &part(sinks..tail), &mut quantized)?;
            self.quantized = Some(quantized);
            self.domains = Some(domains);
        } else {
            self.dense.reserve(kept).map_err(failed)?;
        }
        self.copy(&prompt, &part(tail..kept))?;
        self.settled = self.dense.len();
        Ok(())
    }

    fn quantize(&mut self, plan: &CachePlan) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let full = self.room(plan) == 0;
        let memory = self.memory()?.clone();
        let (Some(quantize), Some(quantized), Some(domains)) =
            (&plan.quantize, self.quantized.as_mut().filter(|_| full), &mut self.domains)
        else {
            return Ok(());
        };
        let len = self.dense.len();
        let tail: Vec<usize> = (plan.sinks.min(len)..len).collect();
        Self::settle(&memory, domains, quantize, &self.dense, &[&tail])?;
        quantize_rows(&memory, domains, &self.dense, &[&tail[..BLOCK]], quantized)?;
        let moved = self.dense.slots(plan.sinks + BLOCK..len);
        self.dense.rewind(plan.sinks);
        let mut targets = Vec::with_capacity(moved.len());
        for _ in &moved {
            targets.extend(self.dense.add(1).map_err(failed)?);
        }
        // As many at a time as do not overwrite each other.
        for (from, to) in moved.chunks(BLOCK).zip(targets.chunks(BLOCK)) {
            rows::copy(&memory, &self.dense.units, &[from.to_vec()], to)?;
        }
        self.dense.free_empty_chunks();
        // The token that this makes room for would have to come again.
        self.settled = self.dense.len() + 1;
        Ok(())
    }

    fn removable(&self) -> usize {
        self.dense.removable().min(self.dense.len().saturating_sub(self.settled))
    }

    fn truncate(&mut self, tokens: usize) {
        self.dense.truncate(self.dense.len().saturating_sub(tokens));
    }

    fn shareable(&self) -> usize {
        if self.quantized.is_none() { self.dense.shareable() } else { 0 }
    }

    fn share(&mut self) -> SharedStore {
        let (shared, moved) = self.dense.share();
        let copied = moved
            .map_err(failed)
            .and_then(|moved| rows::copy(self.memory()?, &self.dense.units, &[moved.from], &moved.to));
        self.failure = self.failure.take().or(copied.err());
        shared
    }

    fn fits(shared: &SharedStore, plan: &CachePlan) -> bool {
        shared.units == dense_units(plan)
    }

    fn begin_with(&mut self, shared: &SharedStore, tokens: usize) {
        self.dense.begin_with(shared, tokens);
    }
}

/// How dense rows lie.
fn dense_units(plan: &CachePlan) -> Units {
    Units { keys: plan.dense_keys, values: plan.dense_values, heads: plan.shape.attention.kv_heads }
}

/// One list where all KV heads have the same.
fn distinct(indices: &[Vec<usize>]) -> &[Vec<usize>] {
    let all_alike = indices.windows(2).all(|pair| pair[0] == pair[1]);
    if all_alike { &indices[..indices.len().min(1)] } else { indices }
}

/// Quantizes the tokens `indices` of `from`, the same of each KV head or others of each: whole blocks.
fn quantize_rows(
    memory: &DeviceMemory,
    domains: &DeviceDomains,
    from: &Store,
    indices: &[&[usize]],
    to: &mut Store,
) -> Result<()> {
    let sources: Vec<Vec<Slot>> = indices.iter().map(|indices| from.slots(indices.iter().copied())).collect();
    let count = sources.first().map_or(0, Vec::len) / BLOCK;
    let mut targets = Vec::with_capacity(count);
    for _ in 0..count {
        // Nowhere, if no block may be held at all.
        targets.extend(to.add(BLOCK).map_err(failed)?);
    }
    rows::quantize(memory, &domains.tables(), (&from.units, &sources), (&to.units, &targets))
}
