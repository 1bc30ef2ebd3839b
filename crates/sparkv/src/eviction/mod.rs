//! Eviction: which tokens of a sequence stay. A file for each policy; a new one is a file and a line in [`POLICIES`].
//!
//! A policy says how many of a prompt's tokens stay in each layer, and what they are chosen by ([`Survivors`]). What
//! tokens score is computed where they are stored; the choice among them is made here.

mod expected_attention;
mod pyramidkv;
mod snapkv;
mod streaming;
mod survivors;

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(crate) use survivors::{Choice, Score, Survivors};

/// All policies.
const POLICIES: [&dyn Policy; 4] =
    [&streaming::Streaming, &snapkv::SnapKv, &pyramidkv::PyramidKv, &expected_attention::ExpectedAttention];

/// The name of keeping everything.
const NONE: &str = "none";

/// How a policy decides which tokens stay.
pub(crate) trait Policy: fmt::Debug + Sync {
    /// What requests call it.
    fn name(&self) -> &'static str;

    /// Which tokens of `prompt` stay, `kept` in each layer; on average over the layers, where these differ.
    fn survivors(&self, prompt: &Prompt, kept: usize) -> Survivors;

    /// Whether the bound holds while generating, too; else it is one on the prompt.
    fn holds_while_generating(&self) -> bool {
        false
    }
}

/// What policies know of a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prompt {
    /// Layers of the model.
    pub(crate) layers: usize,
    /// Tokens of the prompt.
    pub(crate) tokens: usize,
    /// Tokens that stay in any case: sinks and window.
    pub(crate) always: usize,
    /// The fewest tokens that a layer may hold.
    pub(crate) least: usize,
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

/// A policy, by its name; or none.
#[derive(Clone, Copy)]
pub struct EvictionPolicy(Option<&'static dyn Policy>);

impl EvictionPolicy {
    /// Every token stays.
    pub const NONE: Self = Self(None);

    /// Sinks and the most recent tokens stay.
    pub(crate) const STREAMING: Self = Self(Some(&streaming::Streaming));
    /// Keeps what the prompt's last queries attend to.
    pub(crate) const SNAPKV: Self = Self(Some(&snapkv::SnapKv));

    /// The names that there are, `none` first.
    pub fn names() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&str>> =
            LazyLock::new(|| [NONE].into_iter().chain(POLICIES.map(Policy::name)).collect());
        &NAMES
    }

    /// The policy of this name.
    pub fn named(name: &str) -> Option<Self> {
        let policy = POLICIES.into_iter().find(|policy| policy.name() == name);
        if name == NONE { Some(Self::NONE) } else { policy.map(|policy| Self(Some(policy))) }
    }

    /// What requests call it.
    pub fn name(self) -> &'static str {
        self.0.map_or(NONE, Policy::name)
    }

    /// The names of those that drop tokens, for messages.
    pub(crate) fn known() -> String {
        let [first @ .., last] = POLICIES.map(Policy::name);
        format!("{} or {last}", first.join(", "))
    }

    /// Whether the bound holds while generating, too.
    pub(crate) fn holds_while_generating(self) -> bool {
        self.0.is_some_and(Policy::holds_while_generating)
    }

    /// Whether it chooses among a prompt's tokens by what they are.
    pub(crate) fn chooses_in_prompt(self) -> bool {
        self.0.is_some_and(|policy| !policy.holds_while_generating())
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
        Self::named(&name).ok_or_else(|| de::Error::unknown_variant(&name, Self::names()))
    }
}

/// A policy and its bound; the checked form of what is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eviction {
    /// How the tokens are chosen.
    pub policy: EvictionPolicy,
    /// How many stay.
    pub keep: Keep,
}

impl fmt::Display for Eviction {
    /// In words: `snapkv, 1024 tokens`, `streaming, 50 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, keep } = self;
        match keep {
            Keep::Tokens(tokens) => write!(f, "{}, {tokens} tokens", policy.name()),
            Keep::Ratio(ratio) => write!(f, "{}, {:.0} %", policy.name(), 100.0 * ratio),
        }
    }
}

impl Eviction {
    /// Which tokens of a prompt stay.
    pub(crate) fn survivors(self, prompt: &Prompt) -> Survivors {
        let kept = self.keep.tokens(prompt.tokens, prompt.least);
        self.policy.0.map_or(Survivors::All, |policy| policy.survivors(prompt, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_the_names_they_are_known_by() {
        let names = ["none", "streaming", "snapkv", "pyramidkv", "expected_attention"];
        assert_eq!(EvictionPolicy::names(), names);
        for name in names {
            assert_eq!(EvictionPolicy::named(name).map(EvictionPolicy::name), Some(name));
        }
        assert_eq!(EvictionPolicy::named("lru"), None);
        assert_eq!(EvictionPolicy::known(), "streaming, snapkv, pyramidkv or expected_attention");
    }
}
