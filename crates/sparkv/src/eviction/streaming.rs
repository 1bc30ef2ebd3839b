//! StreamingLLM (arXiv 2309.17453): sinks and the most recent tokens stay, also of what is generated.

use super::{Policy, Prompt};

pub(super) const POLICY: Policy = Policy {
    name: "streaming",
    while_generating: true,
    score: None,
    counts: Prompt::alike,
    choose: super::most_recent,
};
