//! What happens to rows of activations between matrix products.
//!
//! In place where the result takes the place of its input: a temporary of some megabytes per operation and layer costs
//! more than most of the operations. The loops are written for the compiler to vectorize, and take many rows at a
//! time, so that a call costs nothing; who calls shares rows out among threads.
mod hadamard;
mod rms_norm;
mod rotate;
mod silu;

pub use hadamard::rotate_hadamard;
pub use rms_norm::rms_norm;
pub use rotate::rotate;
pub use silu::silu_times;

/// Adds `other` to `values`; both of one length.
pub fn add(values: &mut [f32], other: &[f32]) {
    values.iter_mut().zip(other).for_each(|(x, y)| *x += y);
}
