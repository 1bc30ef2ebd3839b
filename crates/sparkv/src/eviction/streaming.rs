//! StreamingLLM (arXiv 2309.17453): attention sinks and the most recent tokens.

use super::{Policy, Prompt, Survivors};

/// Sinks and the last tokens stay, at all times.
#[derive(Debug)]
pub(super) struct Streaming;

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn survivors(&self, _: &Prompt, kept: usize) -> Survivors {
        Survivors::Recent(kept)
    }

    fn holds_while_generating(&self) -> bool {
        true
    }
}
