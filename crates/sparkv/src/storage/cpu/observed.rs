//! What is noted of a prompt's queries while a layer computes them.

use super::sample::QuerySample;
use super::window::ObservationWindow;
use crate::plan::CachePlan;
use crate::pool::{Charge, KvPool};

/// What the compression of one layer needs to know of the prompt's queries; nothing where it needs nothing.
#[derive(Debug)]
pub(crate) struct ObservedQueries {
    /// The last queries.
    pub(crate) window: Option<ObservationWindow>,
    /// Queries from all of the prompt.
    pub(crate) sample: Option<QuerySample>,
    _charge: Charge,
}

impl ObservedQueries {
    /// Nothing seen yet, with room for what `plan` will ask for. The first query will be that of the position
    /// `first`, which is 0 where queries of all of the prompt are needed.
    pub(crate) fn new(plan: &CachePlan, first: usize, pool: &KvPool) -> Self {
        let (heads, head_dim) = (plan.shape.attention.query_heads, plan.shape.attention.head_dim);
        let window = || ObservationWindow::starting_at(first, plan.window, heads, head_dim);
        let sample = || QuerySample::new(plan.sampled_queries(), heads, head_dim);
        Self {
            window: plan.observes_window().then(window),
            sample: plan.samples_queries().then(sample),
            _charge: pool.charge(plan.observed_bytes()),
        }
    }

    /// Takes the queries of further positions, (tokens, query_heads * head_dim), times `scale`.
    pub(crate) fn push(&mut self, queries: &[f32], scale: f32) {
        if let Some(window) = &mut self.window {
            window.push(queries, scale);
        }
        if let Some(sample) = &mut self.sample {
            sample.push(queries, scale);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.window.as_ref().map_or(0, ObservationWindow::bytes)
            + self.sample.as_ref().map_or(0, QuerySample::bytes)
    }
}
