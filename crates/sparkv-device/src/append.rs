//! Rows of keys and values as they come, into groups of dense rows.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View};
use crate::rows::{Run, Units};
use sparkv_kernels::GROUP;

const KERNEL: &str = "append";

/// Where a row is to be stored: in a run that begins at a line, behind as many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    /// The first line of the run.
    pub line: u32,
    /// Which of its rows.
    pub row: u32,
}

/// Stores a token's keys and values at each of `places` in `pool`: `keys` and `values`, (tokens, heads * head_dim), f32.
///
/// # Errors
/// If the rows are not dense, something does not fit its memory, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn append(
    device: &Device,
    units: &Units,
    pool: View<'_>,
    [keys, values]: [View<'_>; 2],
    places: &[RowPlace],
) -> Result<(), DeviceError> {
    if !units.is_dense() {
        return Err(DeviceError::unfit(KERNEL, "rows of quantized blocks are written together"));
    }
    let row = units.heads * units.keys.head_dim();
    for rows in [&keys, &values] {
        rows.check(KERNEL, [places.len() * row, size_of::<f32>()], false)?;
    }
    pool.check(KERNEL, [0, 1], true)?;
    let mut plan = units.words().to_vec();
    for place in places {
        units.check(KERNEL, &pool, &[Run { line: place.line, rows: place.row.saturating_add(1) }])?;
        plan.extend([place.line, place.row / GROUP as u32, place.row % GROUP as u32]);
    }
    let launch = Launch {
        kernel: KERNEL,
        constants: Constants::new(&units.keys, &units.values, false, 1),
        groups: places.len() * units.heads,
        arguments: &[pool, keys, values],
        plan: &plan,
    };
    // SAFETY: all rows are in the pool, and there are as many keys and values.
    unsafe { device.launch(&launch) }
}
