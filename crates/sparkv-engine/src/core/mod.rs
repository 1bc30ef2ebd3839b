//! Tokens only: the thread that owns the model.
use std::num::NonZeroUsize;

/// Bounds of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// The most requests that may wait, those that run not counted.
    pub max_queue: NonZeroUsize,
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests the model works on.
    pub running: usize,
    /// Requests that wait for it.
    pub waiting: usize,
}
