//! SnapKV (arXiv 2404.14469): tokens that the prompt's last queries attend to stay.

use super::{Policy, Prompt, Score};

pub(super) const POLICY: Policy = Policy {
    name: "snapkv",
    while_generating: false,
    score: Some(Score::WindowAttention),
    counts: Prompt::alike,
    choose: super::highest,
};
