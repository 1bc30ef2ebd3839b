//! Plans of launches.

use std::sync::{Mutex, PoisonError};

use candle_metal_kernels::RESOURCE_OPTIONS;
use candle_metal_kernels::metal::{Buffer, Device};

use crate::error::DeviceError;

/// Bytes of a buffer for plans, unless one plan is larger.
const BYTES: usize = 1 << 20;

/// Plans, one behind the other in a buffer that the process writes and the GPU reads. Nothing is written twice: when a buffer
/// is full there is a new one, and commands that were added hold on to the old one until they are done.
pub(super) struct Plans {
    device: Device,
    current: Mutex<Option<(Buffer, usize)>>,
}

impl Plans {
    pub(super) fn new(device: Device) -> Self {
        Self { device, current: Mutex::new(None) }
    }

    /// Where a plan is from now on: a buffer, and bytes behind its beginning.
    pub(super) fn add(&self, plan: &[u32]) -> Result<(Buffer, usize), DeviceError> {
        // Metal binds no memory of no length.
        let bytes = size_of_val(plan).max(size_of::<u32>());
        // A panic elsewhere leaves a buffer and how much of it is taken.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (buffer, taken) = match current.take() {
            Some((buffer, taken)) if buffer.length() - taken >= bytes => (buffer, taken),
            _ => {
                let buffer = self.device.new_buffer(bytes.max(BYTES), RESOURCE_OPTIONS);
                (buffer.map_err(|error| DeviceError::Memory { bytes, reason: error.to_string() })?, 0)
            }
        };
        // SAFETY: the buffer is the process's memory, too, with as many bytes behind those that are taken, and words are at
        // multiples of their size.
        unsafe {
            std::ptr::copy_nonoverlapping(plan.as_ptr(), buffer.contents().add(taken).cast(), plan.len())
        };
        *current = Some((buffer.clone(), taken + bytes));
        Ok((buffer, taken))
    }
}
