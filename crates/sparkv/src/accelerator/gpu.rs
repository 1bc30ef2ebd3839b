//! Which GPUs there are.

use serde::Serialize;

/// The devices that this build knows.
pub const BUILT_FOR: &[&str] = &[
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
];

/// A GPU that this build knows how to use, or would if nothing were lacking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// As `--device` calls it: `cuda:0`, `metal`.
    pub device: String,
    /// As its maker calls it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: Option<u64>,
    /// Bytes of it that are free.
    pub free: Option<u64>,
    /// What else there is to know: versions of drivers and compilers, its architecture.
    pub facts: Vec<(&'static str, String)>,
    /// What it lacks, if it cannot be used.
    pub fault: Option<String>,
}

/// The GPUs that are there.
pub fn gpus() -> Vec<Gpu> {
    Vec::new()
}
