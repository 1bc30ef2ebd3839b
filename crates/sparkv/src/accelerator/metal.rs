//! Candle's stream of commands on Metal, which our kernels join.

use std::sync::Arc;

use candle_core::MetalDevice;
use candle_metal_kernels::metal::{BlitCommandsGuard, Buffer, CommandsGuard, Device};
use sparkv_device::DeviceError;
use sparkv_device::metal::{Metal, Stream, StreamError};

/// The GPU that Candle's tensors are on.
pub(super) fn device(metal: &MetalDevice) -> Result<sparkv_device::Device, DeviceError> {
    Metal::new(Arc::new(Candle(metal.clone()))).map(sparkv_device::Device::Metal)
}

/// Candle's stream.
struct Candle(MetalDevice);

impl Stream for Candle {
    fn device(&self) -> &Device {
        self.0.metal_device()
    }

    fn commands(&self) -> Result<CommandsGuard<'_>, StreamError> {
        Ok(self.0.command_encoder()?)
    }

    fn copies(&self) -> Result<BlitCommandsGuard<'_>, StreamError> {
        Ok(self.0.blit_command_encoder()?)
    }

    fn wait(&self) -> Result<(), StreamError> {
        // The one that waits for this thread's commands even if another thread waits, too.
        Ok(self.0.flush_and_wait_current()?)
    }

    fn keep(&self, buffer: &Buffer) {
        self.0.register_buffers([buffer]);
    }

    fn forget(&self, buffer: &Buffer) {
        self.0.unregister_buffers([buffer]);
    }
}
