//! Whether there is a GPU that runs the kernels.

use candle_metal_kernels::metal::Device;
use objc2::available;
use objc2_metal::{MTLDevice, MTLGPUFamily};

use crate::error::DeviceError;

/// The GPU of this number, if kernels run there. To be asked before Candle, which does not come back without a GPU, or on a
/// system that is too old.
///
/// # Errors
/// [`DeviceError::Unsupported`] if it does not exist, is not Apple's, or macOS is too old.
pub fn check(ordinal: usize) -> Result<Device, DeviceError> {
    // Since then buffers can be kept at hand, and the compiler is told how exact to be.
    if !available!(macos = 15.0) {
        return Err(unsupported("Metal needs macOS 15 or later: update the system, or use the CPU".into()));
    }
    let mut devices = Device::all();
    if ordinal >= devices.len() {
        let count = devices.len();
        return Err(unsupported(format!("Metal has no GPU {ordinal}; it has {count}, counted from 0")));
    }
    let device = devices.swap_remove(ordinal);
    family(&device)?;
    Ok(device)
}

/// Checks that a GPU has what kernels use: since the M1, groups of 32 threads that exchange values.
pub(super) fn family(device: &Device) -> Result<(), DeviceError> {
    if device.as_ref().supportsFamily(MTLGPUFamily::Apple7) {
        return Ok(());
    }
    let name = device.as_ref().name();
    Err(unsupported(format!("{name} is not a GPU of Apple silicon (M1 or later): use the CPU")))
}

fn unsupported(reason: String) -> DeviceError {
    DeviceError::Unsupported { reason }
}
