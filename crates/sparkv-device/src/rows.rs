//! Where the rows of caches lie in a device's memory.
//!
//! All caches of a device are in one memory, the pool, which is addressed in lines. One layer's rows of a sequence are some
//! [`Run`]s of whole units: 16 dense rows, or 32 where a side is quantized (a dense side is then two groups of 16, one behind the
//! other). A unit holds, of each KV head in turn, its keys' bytes and then its values'. So a line and a number of rows say where
//! everything is.

use sparkv_kernels::{GROUP, Layout, Side};

use crate::error::DeviceError;
use crate::launch::View;

/// Bytes in which the pool is addressed.
pub const LINE: usize = 32;

/// Rows that follow one another in memory, whole units but for the end of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first line.
    pub line: u32,
    /// Rows held.
    pub rows: u32,
}

/// How the units of some rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// How keys are stored.
    pub keys: Layout,
    /// How values are stored.
    pub values: Layout,
    /// KV heads.
    pub heads: usize,
}

impl Units {
    /// Rows of a unit.
    pub fn rows(&self) -> usize {
        self.keys.unit_rows().max(self.values.unit_rows())
    }

    /// Bytes that one KV head's rows of a side take in a unit.
    pub fn side_bytes(&self, side: Side) -> usize {
        let layout = match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        };
        layout.bytes(self.rows())
    }

    /// Bytes of a unit.
    pub fn bytes(&self) -> usize {
        self.heads * (self.side_bytes(Side::Keys) + self.side_bytes(Side::Values))
    }

    /// The first byte in the pool of a KV head's keys or values in the unit `unit` of a run that begins at `line`.
    pub fn address(&self, line: u32, unit: usize, head: usize, side: Side) -> usize {
        let of_head = self.side_bytes(Side::Keys) + self.side_bytes(Side::Values);
        let of_side = if side == Side::Values { self.side_bytes(Side::Keys) } else { 0 };
        line as usize * LINE + (unit * self.heads + head) * of_head + of_side
    }

    /// Words that tell a kernel (`Units` in `kernels/formats.inc`).
    pub(crate) fn words(&self) -> [u32; 4] {
        let side = |side| self.side_bytes(side) as u32;
        [self.rows() as u32, self.heads as u32, side(Side::Keys), side(Side::Values)]
    }

    /// Whether rows are dense, so that they can be written one by one.
    pub fn is_dense(&self) -> bool {
        self.rows() == GROUP
    }

    /// Checks that the runs' units are in `pool`.
    pub(crate) fn check(
        &self,
        kernel: &'static str,
        pool: &View<'_>,
        runs: &[Run],
    ) -> Result<(), DeviceError> {
        let end = |run: &Run| {
            let units = (run.rows as usize).div_ceil(self.rows());
            units.checked_mul(self.bytes())?.checked_add(run.line as usize * LINE)
        };
        match runs.iter().find(|run| end(run).is_none_or(|end| end > pool.bytes())) {
            Some(run) => {
                Err(DeviceError::unfit(kernel, format!("{run:?} is not in a pool of {} bytes", pool.bytes())))
            }
            None => Ok(()),
        }
    }
}
