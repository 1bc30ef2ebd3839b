//! What is noted of a prompt's queries on a device, while a layer computes them.

use candle_core::Result;
use sparkv_device::View;

use super::memory::HeldLines;
use crate::accelerator::failed;
use crate::plan::CachePlan;
use crate::pool::{Charge, KvPool};
use crate::storage::query_slots::{SampleSlots, Taken, WindowSlots};

/// Rows of queries, (slots, query_heads * head_dim), f32, times the scale of attention: first those of the window, then those
/// of the sample.
#[derive(Debug)]
pub(super) struct ObservedQueries {
    pub(super) window: Option<WindowSlots>,
    pub(super) sample: Option<SampleSlots>,
    /// Slots of the window.
    window_slots: usize,
    lines: Option<HeldLines>,
    bytes: usize,
    _charge: Charge,
}

impl ObservedQueries {
    /// Nothing seen yet, with room for what `plan` will ask for. The first query will be that of the position
    /// `first`, which is 0 where queries of all of the prompt are needed.
    pub(super) fn new(plan: &CachePlan, first: usize, pool: &KvPool) -> Result<Self> {
        let bytes = plan.observed_bytes();
        let memory = pool.memory().filter(|_| bytes > 0);
        Ok(Self {
            window: plan.observes_window().then(|| WindowSlots::starting_at(first, plan.window)),
            sample: plan.samples_queries().then(SampleSlots::new),
            window_slots: if plan.observes_window() { plan.window } else { 0 },
            lines: memory.map(|memory| memory.hold(bytes)).transpose().map_err(failed)?,
            bytes,
            _charge: pool.charge(bytes),
        })
    }

    /// Which of the queries of `tokens` further positions are held, and where.
    pub(super) fn take(&mut self, tokens: usize) -> Vec<Taken> {
        let mut taken = self.window.as_mut().map_or_else(Vec::new, |window| window.take(tokens));
        let sampled = self.sample.as_mut().map_or_else(Vec::new, |sample| sample.take(tokens));
        taken
            .extend(sampled.into_iter().map(|taken| Taken { slot: self.window_slots + taken.slot, ..taken }));
        taken
    }

    /// The position and the slot of each query of the window, oldest first.
    pub(super) fn window_queries(&self) -> Option<Vec<(usize, usize)>> {
        self.window.as_ref().map(|window| window.held().collect())
    }

    /// The slots of the sample.
    pub(super) fn sample_slots(&self) -> Option<Vec<usize>> {
        self.sample.as_ref().map(|sample| sample.held().iter().map(|slot| self.window_slots + slot).collect())
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows, if any are held.
    pub(super) fn rows(&self) -> Option<Result<View<'_>>> {
        let lines = self.lines.as_ref()?;
        Some(lines.view().and_then(|view| view.part(0, self.bytes)).map_err(failed))
    }
}
