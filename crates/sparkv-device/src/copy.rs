//! Dense rows from one place to another.

use std::collections::HashSet;

use sparkv_kernels::GROUP;

use crate::append::RowPlace;
use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View};
use crate::places::{Places, unit_of};
use crate::rows::Units;

const KERNEL: &str = "copy_rows";

/// Copies keys and values of the dense rows `from` in `pool` to `to`: the first of each head to the first place, and so on. No
/// row is both read and written, and none is written twice.
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
    let mut written = HashSet::with_capacity(to.len());
    for place in to {
        let at = unit_of(KERNEL, units, &pool, place)?;
        plan.extend(at);
        if !written.insert(at) {
            return Err(DeviceError::unfit(KERNEL, format!("{place:?} is written twice")));
        }
    }
    for place in from.iter() {
        if written.contains(&unit_of(KERNEL, units, &pool, place)?) {
            return Err(DeviceError::unfit(KERNEL, format!("{place:?} is read and written")));
        }
    }
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
