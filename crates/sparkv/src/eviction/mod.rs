//! Eviction: which of a prompt's tokens stay. A policy is a file of this folder and a line of [`POLICIES`]; this half
//! knows counts, scores and indices, and storage knows how a [`Score`] is computed.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod expected_attention;
mod pyramidkv;
mod snapkv;
mod streaming;

/// All policies, in the order in which they are named.
const POLICIES: &[Policy] =
    &[streaming::POLICY, snapkv::POLICY, pyramidkv::POLICY, expected_attention::POLICY];

/// The wire name of the policy by which every token stays.
const NONE: &str = "none";

const NAME_TABLE: [&str; POLICIES.len() + 1] = {
    let mut names = [NONE; POLICIES.len() + 1];
    let mut index = 0;
    while index < POLICIES.len() {
        names[index + 1] = POLICIES[index].name;
        index += 1;
    }
    names
};

/// What the wire calls the policies, `none` first.
pub const NAMES: &[&str] = &NAME_TABLE;

/// Bounds a cache by the most recent tokens.
pub(crate) const STREAMING: EvictionPolicy = EvictionPolicy(Some(&streaming::POLICY));

/// SnapKV's average pooling over neighbouring tokens.
const POOL: usize = 5;

/// What tokens are scored by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Score {
    /// Attention from the observation window.
    WindowAttention,
    /// Attention expected from queries like all of the prompt's, times the length of the value.
    ExpectedAttention,
}

/// A policy: all that the rest of the crate knows of it.
pub(crate) struct Policy {
    /// Its wire name.
    name: &'static str,
    /// Whether its bound holds while generating, too, by overwriting the oldest tokens. It keeps as many in each
    /// layer then.
    while_generating: bool,
    /// What a prompt's tokens are scored by; nothing where their age decides.
    score: Option<Score>,
    /// Tokens kept in each layer (layers), given how many were asked for.
    counts: fn(&Prompt, usize) -> Box<[usize]>,
    /// Which of the candidates stay.
    choose: fn(&Candidates<'_>) -> Vec<usize>,
}

/// What a policy may know of a prompt, in tokens.
pub(crate) struct Prompt {
    pub(crate) layers: usize,
    pub(crate) tokens: usize,
    /// The fewest that a layer may keep.
    pub(crate) least: usize,
    /// What always stays: sinks and window.
    pub(crate) always: usize,
}

impl Prompt {
    /// `count` in each layer.
    fn alike(&self, count: usize) -> Box<[usize]> {
        vec![count; self.layers].into_boxed_slice()
    }
}

/// The tokens between sinks and window, of which some stay.
pub(crate) struct Candidates<'a> {
    indices: Range<usize>,
    /// How many stay; at most as many as there are.
    count: usize,
    /// The score of each of the prompt's tokens before the window; empty where the policy asks for none.
    scores: &'a [f32],
}

/// How many tokens an eviction policy keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// At most this many.
    Tokens(usize),
    /// This share of the prompt, in (0, 1].
    Ratio(f64),
}

impl Keep {
    /// Tokens kept of a prompt of `prompt_tokens`; never fewer than `floor`.
    pub fn tokens(self, prompt_tokens: usize, floor: usize) -> usize {
        match self {
            Keep::Tokens(tokens) => tokens,
            Keep::Ratio(ratio) => ((ratio * prompt_tokens as f64).ceil() as usize).max(floor),
        }
    }
}

/// One of the policies by its wire name (see [`NAMES`]), or `none`.
#[derive(Clone, Copy)]
pub struct EvictionPolicy(Option<&'static Policy>);

impl EvictionPolicy {
    /// Every token stays.
    pub const NONE: Self = Self(None);

    /// The policy of this wire name.
    pub fn named(name: &str) -> Option<Self> {
        let policy = POLICIES.iter().find(|policy| policy.name == name);
        if policy.is_some() || name == NONE { Some(Self(policy)) } else { None }
    }

    /// Its wire name.
    pub fn name(self) -> &'static str {
        self.0.map_or(NONE, |policy| policy.name)
    }

    /// What a prompt's tokens are scored by, if by anything.
    pub(crate) fn score(self) -> Option<Score> {
        self.0.and_then(|policy| policy.score)
    }

    /// Whether it bounds what is generated, too.
    pub(crate) fn while_generating(self) -> bool {
        self.0.is_some_and(|policy| policy.while_generating)
    }
}

impl PartialEq for EvictionPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for EvictionPolicy {}

impl fmt::Debug for EvictionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for EvictionPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for EvictionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| de::Error::unknown_variant(&name, NAMES))
    }
}

/// Which tokens stay, and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eviction {
    /// Every token stays.
    None,
    /// As many tokens as this, chosen by a policy other than `none`.
    By(EvictionPolicy, Keep),
}

impl Eviction {
    /// How many tokens stay; all if `None`.
    pub fn keep(self) -> Option<Keep> {
        match self {
            Eviction::None => None,
            Eviction::By(_, keep) => Some(keep),
        }
    }

    /// By which policy.
    pub fn policy(self) -> EvictionPolicy {
        match self {
            Eviction::None => EvictionPolicy::NONE,
            Eviction::By(policy, _) => policy,
        }
    }

    /// How many tokens of this prompt stay in each layer.
    pub(crate) fn survivors(self, prompt: &Prompt) -> Survivors {
        match self {
            Eviction::By(EvictionPolicy(Some(policy)), keep) => Survivors {
                policy: EvictionPolicy(Some(policy)),
                counts: (policy.counts)(prompt, keep.tokens(prompt.tokens, prompt.least)),
            },
            Eviction::None | Eviction::By(EvictionPolicy(None), _) => {
                Survivors { policy: EvictionPolicy::NONE, counts: Box::default() }
            }
        }
    }
}

/// Which of a prompt's tokens stay.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Survivors {
    pub(crate) policy: EvictionPolicy,
    /// (layers): tokens that stay, sinks and window included; empty where all do.
    counts: Box<[usize]>,
}

impl Survivors {
    /// Tokens kept of a prompt of `prompt_tokens` in `layer`.
    pub(crate) fn count(&self, layer: usize, prompt_tokens: usize) -> usize {
        self.counts.get(layer).map_or(prompt_tokens, |count| *count.min(&prompt_tokens))
    }

    /// The most tokens held at any time, where the policy bounds what is generated.
    pub(crate) fn bound(&self) -> Option<usize> {
        self.counts.first().copied().filter(|_| self.policy.while_generating())
    }

    /// Indices, in order, of the `count` tokens that stay of a prompt of `prompt_tokens`: `sinks`, what the policy
    /// chooses, and at most `window` at the end. `scores`: one for each token, if the policy asks for them.
    pub(crate) fn choose(
        &self,
        count: usize,
        kept: Kept,
        prompt_tokens: usize,
        scores: &[f32],
    ) -> Vec<usize> {
        let Some(policy) = self.policy.0.filter(|_| count < prompt_tokens) else {
            return (0..prompt_tokens).collect();
        };
        let sinks = kept.sinks.min(count);
        let indices = sinks..prompt_tokens - kept.window.min(count - sinks);
        // Tokens of the window are no neighbours: they stay anyway.
        let scores = pool(&scores[..indices.end.min(scores.len())]);
        let window = indices.end..prompt_tokens;
        let candidates = Candidates { indices, count: count - sinks - window.len(), scores: &scores };
        (0..sinks).chain((policy.choose)(&candidates)).chain(window).collect()
    }
}

/// What stays whatever the policy says, in tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) sinks: usize,
    pub(crate) window: usize,
}

/// The last candidates.
fn most_recent(candidates: &Candidates<'_>) -> Vec<usize> {
    let end = candidates.indices.end;
    (end - candidates.count..end).collect()
}

/// The candidates with the largest scores, in ascending order; among equals the earlier.
fn highest(candidates: &Candidates<'_>) -> Vec<usize> {
    let (scores, count) = (candidates.scores, candidates.count);
    let mut indices: Vec<usize> = candidates.indices.clone().collect();
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
