//! Row operations: what happens to rows of activations beside matrix products and attention.
//!
//! [`RowOps`] is the seam; [`on`] is the one place that knows which device has which form of it. [`plain`], on Candle's
//! operations, is what they are tested against.
pub(crate) mod cpu;
mod device;
#[cfg(test)]
mod plain;
pub(crate) mod rope;

use candle_core::{Result, Tensor};
use sparkv_device::TopLogits;

use crate::device::Place;
use rope::Rotation;

/// The row operations of a device. Rows are (rows, row), f32, contiguous, and may be part of a larger tensor; what is
/// changed is changed in place.
pub(crate) trait RowOps: std::fmt::Debug + Send + Sync {
    /// Rows, each divided by the root of the mean of its squares (and `eps`), times `weight`, (row).
    fn rms_norm(&self, rows: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// Adds `other`, of the same shape, to `rows`.
    fn add(&self, rows: &Tensor, other: &Tensor) -> Result<()>;

    /// Replaces `gate` by silu(gate) * up; both of one shape.
    fn silu_times(&self, gate: &Tensor, up: &Tensor) -> Result<()>;

    /// Rotates every head of `rows`, (rows, heads * head_dim).
    fn rotate(&self, rows: &Tensor, rotation: &Rotation) -> Result<()>;

    /// The `count` largest finite values of each row, within 1 and [`sparkv_device::MAX_TOP_K`]; `None` where it costs no more to read
    /// whole rows.
    fn largest(&self, _rows: &Tensor, _count: usize) -> Result<Option<Vec<TopLogits>>> {
        Ok(None)
    }
}

/// The row operations of `place`.
pub(crate) fn on(place: &Place) -> Box<dyn RowOps> {
    match place.accelerator() {
        None => Box::new(cpu::Cpu),
        Some(accelerator) => Box::new(device::OnDevice(accelerator.clone())),
    }
}

/// The row operations that any device has.
#[cfg(test)]
pub(crate) fn plain() -> Box<dyn RowOps> {
    Box::new(plain::Plain)
}
