//! Budgets in bytes.
use serde::{Deserialize, Serialize};

/// What the cache may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Budget {
    /// A share of the dense f16 bytes, in (0, 1].
    Share(f64),
    /// Bytes.
    Bytes(u64),
}
