//! The feed-forward block of a layer.
use candle_core::Result;
use candle_core::Tensor;

use super::{Linear, Norm, all_packed, packed};
use crate::ops::RowOps;
use crate::profile::{self, Section};

/// Rows that go through the wide part at a time where it is held as a whole: enough to keep matrix products busy.
const ROWS: usize = 256;

/// down(silu(gate(x)) * up(x)) of rows x, each first normalized.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) norm: Norm,
    /// (intermediate, hidden)
    pub(crate) gate: Linear,
    /// (intermediate, hidden)
    pub(crate) up: Linear,
    /// (hidden, intermediate)
    pub(crate) down: Linear,
}

impl Mlp {
    /// Adds to each row of `hidden`, (rows, hidden), f32, contiguous, what the block makes of it.
    pub(crate) fn add_to(&self, hidden: &Tensor, ops: &dyn RowOps) -> Result<()> {
        if let Some(layers) = all_packed([&self.gate, &self.up, &self.down]) {
            return profile::on(Section::Weights, || packed::add_gated(hidden, &self.norm, layers));
        }
        let rows = hidden.dim(0)?;
        for start in (0..rows).step_by(ROWS) {
            let hidden = hidden.narrow(0, start, ROWS.min(rows - start))?;
            let [gate, up] = Linear::of_normed([&self.gate, &self.up], &hidden, &self.norm, ops)?;
            ops.silu_times(&gate, &up)?;
            self.down.add_to(&hidden, &gate, ops)?;
        }
        Ok(())
    }
}
