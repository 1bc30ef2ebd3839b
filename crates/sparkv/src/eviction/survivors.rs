//! Which tokens of a prompt stay, once they are scored.

use std::ops::Range;

use super::Prompt;

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

    /// As many tokens in every layer.
    pub(super) fn scored_alike(score: Score, prompt: &Prompt, kept: usize) -> Self {
        Self::Scored(score, vec![kept; prompt.layers].into_boxed_slice())
    }

    /// What tokens are chosen by, where not all stay and those that do are chosen.
    pub(crate) fn score(&self) -> Option<Score> {
        match self {
            Self::Scored(score, _) => Some(*score),
            Self::All | Self::Recent(_) => None,
        }
    }
}

/// SnapKV's average pooling over neighbouring tokens.
const POOL: usize = 5;

/// Some tokens of a prompt are to stay: the first ones, the last ones, and the best of those between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// Tokens of the prompt.
    pub(crate) tokens: usize,
    /// How many are to stay; fewer than there are.
    pub(crate) count: usize,
    /// The first tokens, which stay.
    pub(crate) sinks: usize,
    /// The last tokens, which stay.
    pub(crate) window: usize,
}

impl Choice {
    /// The tokens that stay, in order: the most recent ones where there are no `scores` (tokens).
    pub(crate) fn survivors(&self, scores: Option<&[f32]>) -> Vec<usize> {
        let (tokens, count) = (self.tokens, self.count);
        let sinks = self.sinks.min(count);
        let Some(scores) = scores else {
            return (0..sinks).chain(tokens - (count - sinks)..tokens).collect();
        };
        let candidates = sinks..tokens - self.window.min(count - sinks);
        // Tokens of the window are no neighbours: they stay anyway.
        let scores = pool(&scores[..candidates.end]);
        let chosen = count - sinks - (tokens - candidates.end);
        let chosen = largest(&scores, candidates.clone(), chosen);
        (0..sinks).chain(chosen).chain(candidates.end..tokens).collect()
    }
}

/// The `count` indices among `candidates` with the largest `scores`, in ascending order; among equals the
/// earlier.
fn largest(scores: &[f32], candidates: Range<usize>, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = candidates.collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        indices.truncate(count);
        indices.sort_unstable();
    }
    indices
}

/// SnapKV's pooling: the mean over `POOL` neighbours, those beyond the ends counting as 0.
fn pool(mass: &[f32]) -> Vec<f32> {
    let reach = POOL / 2;
    (0..mass.len())
        .map(|i| {
            mass[i.saturating_sub(reach)..mass.len().min(i + reach + 1)].iter().sum::<f32>() / POOL as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_counts_what_lies_beyond_as_zero() {
        assert_eq!(pool(&[5.0, 0.0, 0.0, 0.0, 10.0]), [1.0, 1.0, 3.0, 2.0, 2.0]);
    }
}
