//! The tokens of a prompt that stay: their scores from what was observed, for the policy to choose by.

use crate::eviction::{Kept, Score};
use crate::observe::Observed;
use crate::plan::CachePlan;
use crate::rows::KvRows;

/// A KV head of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) layer: usize,
    pub(crate) kv_head: usize,
}

/// Indices of a prompt's tokens that stay in `place`, in order. `prompt` holds all of them.
pub(crate) fn survivors(plan: &CachePlan, place: Place, prompt: &KvRows, observed: &Observed) -> Vec<usize> {
    let prompt_tokens = prompt.len();
    let count = plan.survivors.count(place.layer, prompt_tokens);
    let scores = if count < prompt_tokens { scores(plan, place.kv_head, prompt, observed) } else { None };
    let kept = Kept { sinks: plan.sinks, window: plan.window };
    plan.survivors.choose(count, kept, prompt_tokens, &scores.unwrap_or_default())
}

/// The score of each of the prompt's tokens, if the policy asks for any.
fn scores(plan: &CachePlan, kv_head: usize, prompt: &KvRows, observed: &Observed) -> Option<Vec<f32>> {
    let group = plan.shape.attention.group();
    match plan.survivors.policy.score()? {
        Score::WindowAttention => {
            let window = observed.window.as_ref()?;
            Some(window.attention_mass(kv_head, group, &prompt.keys))
        }
        Score::ExpectedAttention => {
            let sample = observed.sample.as_ref()?;
            Some(sample.expected_attention(kv_head, group, prompt))
        }
    }
}
