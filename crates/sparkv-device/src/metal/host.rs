//! Kernels on the process's memory, as tests have it: a simulated device reaches it, a GPU has copies.

use candle_metal_kernels::metal::Buffer;

use super::{Metal, failed};
use crate::error::DeviceError;
use crate::launch::{Launch, Place, View};

/// Launches a kernel with copies of what is the process's memory, and copies back what it may have written.
///
/// # Safety
/// As [`crate::Device::launch`].
pub(super) unsafe fn launch(metal: &Metal, launch: &Launch<'_>) -> Result<(), DeviceError> {
    let copies: Vec<Option<Buffer>> =
        launch.arguments.iter().map(|view| copy(metal, view)).collect::<Result<_, _>>()?;
    let mut arguments = launch.arguments.to_vec();
    for (argument, copy) in arguments.iter_mut().zip(&copies) {
        if let Some(copy) = copy {
            *argument = View::of_metal(copy, argument.is_writable());
        }
    }
    let Launch { kernel, constants, groups, plan, .. } = *launch;
    // SAFETY: as the caller promises; the copies are as long.
    unsafe { metal.launch(&Launch { kernel, constants, groups, arguments: &arguments, plan }) }?;
    metal.stream.wait().map_err(failed(kernel))?;
    for (view, copy) in launch.arguments.iter().zip(&copies) {
        if let (Place::Address(address, _), Some(copy), true) = (view.place, copy, view.is_writable()) {
            // SAFETY: both have as many bytes, the view is borrowed to be written, and the GPU is done with the copy.
            unsafe { std::ptr::copy_nonoverlapping(copy.contents(), address as *mut u8, view.bytes()) };
        }
    }
    Ok(())
}

/// A copy of the process's memory, if it is that.
fn copy(metal: &Metal, view: &View<'_>) -> Result<Option<Buffer>, DeviceError> {
    let Place::Address(address, _) = view.place else { return Ok(None) };
    // SAFETY: the view is borrowed from numbers of as many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, view.bytes()) };
    metal.shared(bytes).map(Some)
}
