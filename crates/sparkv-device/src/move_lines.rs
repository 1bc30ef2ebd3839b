//! Lines of memory from one place to another.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View};
use crate::rows::LINE;

const KERNEL: &str = "move_lines";

/// Lines that a group moves; as in `kernels/move.inc`.
const MOVED_LINES: usize = 256;

/// Copies `lines` lines of `source`, from the line `from` on, to the line `to` of `destination`. In one memory, they must not
/// overlap.
///
/// # Errors
/// If they are not there, overlap, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn move_lines(
    device: &Device,
    (source, from): (View<'_>, u32),
    (destination, to): (View<'_>, u32),
    lines: u32,
) -> Result<(), DeviceError> {
    let ends = [from, to].map(|first| first as usize + lines as usize);
    source.check(KERNEL, [ends[0], LINE], false)?;
    destination.check(KERNEL, [ends[1], LINE], true)?;
    if source.is_same_place(&destination)
        && from < to.saturating_add(lines)
        && to < from.saturating_add(lines)
    {
        return Err(DeviceError::unfit(KERNEL, format!("{lines} lines at {from} and {to} overlap")));
    }
    let launch = Launch {
        kernel: KERNEL,
        constants: Constants::NONE,
        groups: (lines as usize).div_ceil(MOVED_LINES),
        arguments: &[source.read_only(), destination],
        plan: &[from, to, lines],
    };
    // SAFETY: both ends are within their memory.
    unsafe { device.launch(&launch) }
}
