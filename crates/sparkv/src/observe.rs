//! What is noted of a prompt's queries while a layer computes them.

use crate::evict::{Score, Survivors};
use crate::plan::CachePlan;
use crate::sample::QuerySample;
use crate::window::ObservationWindow;

/// What the compression of one layer needs to know of the prompt's queries; nothing where it needs nothing.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// The last queries.
    pub(crate) window: Option<ObservationWindow>,
    /// Queries from all of the prompt.
    pub(crate) sample: Option<QuerySample>,
}

impl Observed {
    /// Nothing seen yet, with room for what `plan` will ask for.
    pub(crate) fn new(plan: &CachePlan) -> Self {
        let (heads, head_dim) = (plan.shape.attention.query_heads, plan.shape.attention.head_dim);
        let score = match plan.survivors {
            Survivors::Scored(score, _) => Some(score),
            Survivors::All | Survivors::Recent(_) => None,
        };
        let scales_keys = plan.seal.is_some_and(|seal| seal.scales_keys());
        let window = scales_keys || score == Some(Score::WindowAttention);
        let sample = score == Some(Score::ExpectedAttention);
        Self {
            window: window.then(|| ObservationWindow::new(plan.window, heads, head_dim)),
            sample: sample.then(|| QuerySample::new(plan.prompt_tokens, heads, head_dim)),
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
