//! Expected Attention (arXiv 2510.00636), by a sample of the prompt's queries: what any of them attends to.

use super::{Policy, Prompt, Score, Survivors};

/// The tokens with the largest attention expected from queries like all of the prompt's stay.
#[derive(Debug)]
pub(super) struct ExpectedAttention;

impl Policy for ExpectedAttention {
    fn name(&self) -> &'static str {
        "expected_attention"
    }

    fn survivors(&self, prompt: &Prompt, kept: usize) -> Survivors {
        Survivors::scored_alike(Score::ExpectedAttention, prompt, kept)
    }
}
