//! Dense rows from one place to another.

use sparkv_kernels::GROUP;

use crate::append::RowPlace;
use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View};
use crate::places::{Places, check_apart, unit_of};
use crate::rows::{LINE, Units};

const KERNEL: &str = "copy_rows";

/// Copies keys and values of the dense rows `from` in `pool` to `to`: the first of each head to the first place, and so on. No
/// row is written to a unit that others are read from; places of `to` that are the same are written in any order.
///
/// # Errors
/// If the rows are not dense, lie outside of the pool, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn copy_rows(
    device: &Device,
    units: &Units,
    pool: View<'_>,
    from: Places<'_>,
    to: &[RowPlace],
) -> Result<(), DeviceError> {
    if from.len() != to.len() {
        let reason = format!("{} rows do not go to {} places", from.len(), to.len());
        return Err(DeviceError::unfit(KERNEL, reason));
    }
    pool.check(KERNEL, [0, 1], true)?;
    let mut plan = units.words().to_vec();
    from.write(KERNEL, units, &pool, &mut plan)?;
    let mut written = Vec::new();
    for place in to {
        let [line, row] = unit_of(KERNEL, units, &pool, place)?;
        plan.extend([line, row]);
        let lines = line as usize..line as usize + units.bytes() / LINE;
        if written.last() != Some(&lines) {
            written.push(lines);
        }
    }
    check_apart(KERNEL, units, from, written)?;
    let launch = Launch {
        kernel: KERNEL,
        constants: Constants::new(&units.keys, &units.values, false, 1),
        groups: to.len().div_ceil(GROUP) * units.heads,
        arguments: &[pool],
        plan: &plan,
    };
    // SAFETY: all rows are in the pool, which may be written.
    unsafe { device.launch(&launch) }
}
