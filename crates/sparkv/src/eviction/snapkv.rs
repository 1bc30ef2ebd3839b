//! SnapKV (arXiv 2404.14469): what the prompt's last queries attend to.

use super::{Policy, Prompt, Score, Survivors};

/// The tokens with the largest attention from the observation window stay.
#[derive(Debug)]
pub(super) struct SnapKv;

impl Policy for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn survivors(&self, prompt: &Prompt, kept: usize) -> Survivors {
        Survivors::scored_alike(Score::WindowAttention, prompt, kept)
    }
}
