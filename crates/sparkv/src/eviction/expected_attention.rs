//! Expected Attention (after arXiv 2510.00636): tokens that queries like those of the whole prompt are expected to
//! attend to stay, whatever it asks last.

use super::{Policy, Prompt, Score};

pub(super) const POLICY: Policy = Policy {
    name: "expected_attention",
    while_generating: false,
    score: Some(Score::ExpectedAttention),
    counts: Prompt::alike,
    choose: super::highest,
};
