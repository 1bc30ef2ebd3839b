//! What a packed row keeps, and where a packed block holds it.

use super::BLOCK;

/// How the magnitude of pruned channels is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Root of the mean square: in the scaled domain, the paper's rule for keys.
    RootMeanSquare,
    /// Mean magnitude, the least-squares choice for given signs: for values.
    MeanMagnitude,
}

/// Storage of a kept value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptFormat {
    /// 4 bytes: for tests of exactness, written and read by the reference.
    F32,
    /// 1 byte; with one f16 scale a row.
    Int8,
}

/// What a packed row keeps, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// T: channels kept of every row.
    pub kept: usize,
    /// Storage of a kept value.
    pub values: KeptFormat,
    /// How the magnitude of the others is chosen.
    pub fill: Fill,
}

impl Packing {
    /// The packing that prunes `ratio` (in [0, 1)) of `head_dim` channels: T = D - floor(ratio * D). None where that
    /// prunes nothing.
    pub fn new(head_dim: usize, ratio: f64, values: KeptFormat, fill: Fill) -> Option<Self> {
        let pruned = (ratio * head_dim as f64).floor() as usize;
        (pruned > 0).then(|| Self { kept: head_dim.saturating_sub(pruned), values, fill })
    }

    /// See [`Sections`].
    pub(crate) fn sections(&self, head_dim: usize) -> Sections {
        let (value_bytes, scalar_bytes, step_bytes) = match self.values {
            KeptFormat::F32 => (4, 4, 0),
            KeptFormat::Int8 => (1, 2, 1),
        };
        let mask = BLOCK / 8 * head_dim;
        let bitmap = BLOCK * value_bytes * self.kept;
        let signs = bitmap + mask;
        let scalars = signs + mask;
        let steps = scalars + BLOCK * scalar_bytes;
        Sections { bitmap, signs, scalars, steps, end: steps + BLOCK * step_bytes }
    }
}

/// Where the sections of a packed block begin ([`crate::format::block`] has the drawing); values begin at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) bitmap: usize,
    pub(crate) signs: usize,
    /// Scales of int8 values, else magnitudes.
    pub(crate) scalars: usize,
    /// Magnitudes of int8 values in steps of the scale; equal to `end` for wider values.
    pub(crate) steps: usize,
    pub(crate) end: usize,
}
