//! Eviction: how many of a prompt's tokens stay in each layer, and which.

use std::cmp::Ordering;

use crate::observe::Observed;
use crate::plan::CachePlan;
use crate::rows::KvRows;
use crate::window::pool;

/// PyramidKV's beta: of the tokens that are chosen, the uppermost layer keeps the mean over this.
const PYRAMID_BETA: usize = 20;

/// Which of a prompt's tokens stay, in tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Survivors {
    /// All of them.
    All,
    /// The sinks and the last ones, this many together.
    Recent(usize),
    /// Sinks, window and the tokens with the highest score; (layers): this many together.
    Scored(Score, Box<[usize]>),
}

/// What tokens are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Score {
    /// Attention from the observation window (SnapKV).
    WindowAttention,
    /// Attention expected from queries like all of the prompt's, times the length of the value (after Expected
    /// Attention, arXiv 2510.00636).
    ExpectedAttention,
}

impl Survivors {
    /// Tokens kept of a prompt of `prompt_tokens` in `layer`.
    pub(crate) fn count(&self, layer: usize, prompt_tokens: usize) -> usize {
        match self {
            Survivors::All => prompt_tokens,
            Survivors::Recent(count) => *count.min(&prompt_tokens),
            Survivors::Scored(_, counts) => {
                counts.get(layer).map_or(prompt_tokens, |count| *count.min(&prompt_tokens))
            }
        }
    }
}

/// Tokens kept in each of `layers` layers, falling linearly from the first to the last: `mean` on average, to the
/// token, in no layer fewer than `least` or more than `most`.
///
/// PyramidKV (arXiv 2406.02069): the last layer keeps the mean over [`PYRAMID_BETA`], the first as much more than
/// the mean as the last keeps less. Where that is more than the prompt has, both come closer to the mean. What
/// always stays (`always` tokens) is not shared out.
pub(crate) fn pyramid(
    layers: usize,
    mean: usize,
    always: usize,
    (least, most): (usize, usize),
) -> Box<[usize]> {
    let last = always + mean.saturating_sub(always) / PYRAMID_BETA;
    let spread = (mean - last.max(least).min(mean)).min(most.saturating_sub(mean));
    let steps = layers.saturating_sub(1);
    // The upper half mirrors the lower, so that rounding does not change the mean.
    (0..layers)
        .map(|layer| match (2 * layer).cmp(&steps) {
            Ordering::Less => mean + spread - 2 * spread * layer / steps,
            Ordering::Equal => mean,
            Ordering::Greater => mean - (spread - 2 * spread * (steps - layer) / steps),
        })
        .collect()
}

/// Indices of a prompt's tokens that stay in `layer` for `kv_head`, in order. `prompt` holds all of them.
pub(crate) fn survivors(
    plan: &CachePlan,
    (layer, kv_head): (usize, usize),
    prompt: &KvRows,
    observed: &Observed,
) -> Vec<usize> {
    let prompt_tokens = prompt.len();
    let count = plan.survivors.count(layer, prompt_tokens);
    if count == prompt_tokens {
        return (0..prompt_tokens).collect();
    }
    let sinks = plan.sinks.min(count);
    let group = plan.shape.attention.group();
    let scores = match &plan.survivors {
        Survivors::Scored(Score::WindowAttention, _) => {
            observed.window.as_ref().map(|window| window.attention_mass(kv_head, group, &prompt.keys))
        }
        Survivors::Scored(Score::ExpectedAttention, _) => {
            observed.sample.as_ref().map(|sample| sample.expected_attention(kv_head, group, prompt))
        }
        Survivors::All | Survivors::Recent(_) => None,
    };
    let Some(scores) = scores else {
        return (0..sinks).chain(prompt_tokens - (count - sinks)..prompt_tokens).collect();
    };
    let candidates = sinks..prompt_tokens - plan.window.min(count - sinks);
    // Tokens of the window are no neighbours: they stay anyway.
    let scores = pool(&scores[..candidates.end]);
    let chosen = count - sinks - (prompt_tokens - candidates.end);
    let chosen = largest(&scores, candidates.clone(), chosen);
    (0..sinks).chain(chosen).chain(candidates.end..prompt_tokens).collect()
}

/// The `count` indices among `candidates` with the largest `scores`, in ascending order; among equals the
/// earlier.
fn largest(scores: &[f32], candidates: std::ops::Range<usize>, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = candidates.collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        indices.truncate(count);
        indices.sort_unstable();
    }
    indices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pyramids_fall_from_twice_the_mean_to_a_twentieth() {
        // 36 always stay; of the other 200 the last layer keeps 10, the first 390.
        assert_eq!(*pyramid(5, 236, 36, (36, 1000)), [426, 331, 236, 141, 46]);
        // A prompt of 300 tokens: 64 above the mean, 64 below.
        assert_eq!(*pyramid(3, 236, 36, (36, 300)), [300, 236, 172]);
        // Where tokens are sealed, a block more has to fit: 68.
        assert_eq!(*pyramid(3, 236, 36, (68, 1000)), [404, 236, 68]);
        assert_eq!(*pyramid(1, 236, 36, (36, 1000)), [236]);
    }

    proptest! {
        #[test]
        fn pyramids_keep_their_mean_and_bounds(
            layers in 1usize..90, always in 0usize..100, block in 0usize..33, mean in 0usize..3000,
            prompt in 1usize..5000,
        ) {
            let (least, mean) = (always + block, (always + block + mean));
            let counts = pyramid(layers, mean, always, (least, prompt));
            prop_assert_eq!(counts.iter().sum::<usize>(), layers * mean);
            prop_assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]), "{counts:?}");
            prop_assert!(counts.iter().all(|count| *count >= least && *count <= prompt.max(mean)), "{counts:?}");
        }
    }
}
