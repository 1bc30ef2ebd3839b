//! What a body that passed the checks asks the engine for.

use std::num::NonZeroUsize;

use sparkv_engine::GenerateRequest;

use crate::error::Fault;

/// What the engine is asked for.
#[derive(Debug)]
pub(crate) struct CheckedRequests {
    /// One for each prompt.
    pub(crate) requests: Vec<GenerateRequest>,
    /// Answers to each.
    pub(crate) answers: NonZeroUsize,
    /// What to blame if the engine refuses.
    pub(crate) fault: Fault,
}
