//! The stream of commands that launches join.

use std::error::Error;

use candle_metal_kernels::metal::{BlitCommandsGuard, Buffer, Commands, CommandsGuard, Device, ResidencySet};

use super::found::check;
use crate::error::DeviceError;

/// What goes wrong in a stream.
pub type StreamError = Box<dyn Error + Send + Sync>;

/// A stream of commands of a GPU. A guard locks the stream for as long as it is there: with one at hand, nothing else of the
/// stream may be called.
pub trait Stream: Send + Sync {
    /// The GPU.
    fn device(&self) -> &Device;

    /// To add launches.
    ///
    /// # Errors
    /// If the driver fails.
    fn commands(&self) -> Result<CommandsGuard<'_>, StreamError>;

    /// To add copies.
    ///
    /// # Errors
    /// If the driver fails.
    fn copies(&self) -> Result<BlitCommandsGuard<'_>, StreamError>;

    /// Waits until all that was added is done.
    ///
    /// # Errors
    /// If some of it failed.
    fn wait(&self) -> Result<(), StreamError>;

    /// Keeps a buffer at hand, in the GPU's page tables, until it is to [`Stream::forget`] it.
    fn keep(&self, buffer: &Buffer);

    /// No longer keeps the buffer at hand. The GPU is done with it.
    fn forget(&self, buffer: &Buffer);
}

/// A stream of its own, where there is no other on the GPU.
pub struct Queue {
    device: Device,
    commands: Commands,
    kept: ResidencySet,
}

impl Queue {
    /// A stream on the GPU of this number.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if there is none, or it is not one for kernels.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        let device = check(ordinal)?;
        let failed = |error: candle_metal_kernels::MetalKernelError| DeviceError::Unsupported {
            reason: error.to_string(),
        };
        let kept = ResidencySet::new(&device);
        let queue = device.new_command_queue().map_err(failed)?;
        let commands = Commands::new(queue, &kept).map_err(failed)?;
        Ok(Self { device, commands, kept })
    }
}

impl Stream for Queue {
    fn device(&self) -> &Device {
        &self.device
    }

    fn commands(&self) -> Result<CommandsGuard<'_>, StreamError> {
        Ok(self.commands.command_encoder()?)
    }

    fn copies(&self) -> Result<BlitCommandsGuard<'_>, StreamError> {
        Ok(self.commands.blit_command_encoder()?)
    }

    fn wait(&self) -> Result<(), StreamError> {
        Ok(self.commands.flush_and_wait_current()?)
    }

    fn keep(&self, buffer: &Buffer) {
        self.kept.insert(buffer);
    }

    fn forget(&self, buffer: &Buffer) {
        self.kept.remove(buffer);
    }
}
