//! Which GPUs there are, and whether kernels run on them.

use candle_metal_kernels::metal::Device;
use objc2::available;
use objc2_metal::{MTLDevice, MTLGPUFamily};

use crate::error::DeviceError;

/// A GPU, as Metal describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number among those that Metal shows.
    pub ordinal: usize,
    /// What it is called.
    pub name: String,
    /// Bytes of memory that it keeps at hand at once.
    pub memory: usize,
    /// Bytes of them that this process has taken.
    pub taken: usize,
}

/// All GPUs, whether kernels run on them or not.
pub fn devices() -> Vec<Found> {
    let describe = |(ordinal, device): (usize, Device)| Found {
        ordinal,
        name: device.as_ref().name().to_string(),
        memory: device.recommended_max_working_set_size(),
        taken: device.current_allocated_size(),
    };
    Device::all().into_iter().enumerate().map(describe).collect()
}

/// The GPU of this number, if kernels run there. To be asked before Candle, which panics without a GPU, or on a system that is
/// too old.
///
/// # Errors
/// [`DeviceError::Unsupported`] says what is missing and what to do.
pub fn check(ordinal: usize) -> Result<Device, DeviceError> {
    // Since then buffers can be kept at hand, and the compiler is told how exact to be.
    if !available!(macos = 15.0) {
        return Err(unsupported("Metal needs macOS 15 or later: update the system, or use the CPU".into()));
    }
    let mut devices = Device::all();
    if ordinal >= devices.len() {
        let count = devices.len();
        return Err(unsupported(format!(
            "there is no GPU {ordinal}: Metal shows {count}, which are numbered from 0 on"
        )));
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
