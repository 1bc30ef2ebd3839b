//! A GPU, as Candle and our own kernels know it.

mod gpu;
#[cfg(feature = "metal")]
mod metal;
mod views;

use sparkv_device::Device;

#[cfg(feature = "cuda")]
pub use gpu::check_cuda;
#[cfg(feature = "metal")]
pub use gpu::check_metal;
pub use gpu::{BUILT_FOR, Gpu, gpus, no_gpus};
#[cfg(feature = "shim")]
pub use sparkv_device::Checks;
pub use sparkv_device::{DeviceError, View};
pub use views::{change, make, read, with_scratch};

/// A device that is not the CPU: caches are held there, and our kernels run on it, in the order in which Candle's do.
#[derive(Debug, Clone)]
pub struct Accelerator {
    device: Device,
    tensors: candle_core::Device,
}

impl Accelerator {
    /// The one that tensors on `device` are on; `None` for the CPU.
    ///
    /// # Errors
    /// If the device lacks something that our kernels need.
    pub fn of(device: &candle_core::Device) -> Result<Option<Self>, DeviceError> {
        match device {
            candle_core::Device::Cpu => Ok(None),
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(of_candle) => {
                let cuda = sparkv_device::cuda::Cuda::new(of_candle.cuda_stream())?;
                Ok(Some(Self { device: Device::Cuda(cuda), tensors: device.clone() }))
            }
            #[cfg(feature = "metal")]
            candle_core::Device::Metal(of_candle) => {
                Ok(Some(Self { device: metal::device(of_candle)?, tensors: device.clone() }))
            }
            _ => Err(DeviceError::Missing { what: "kernels in this build" }),
        }
    }

    /// A device simulated on the CPU, whose tensors are the CPU's, for tests; see [`Device::simulated`].
    #[cfg(feature = "shim")]
    pub fn simulated(checks: Checks, seed: u64) -> Option<Self> {
        let device = Device::simulated(checks, seed)?;
        Some(Self { device, tensors: candle_core::Device::Cpu })
    }

    /// Bytes of its memory that are free.
    ///
    /// # Errors
    /// If the driver does not tell.
    pub fn free_memory(&self) -> Result<u64, DeviceError> {
        self.device.free_memory()
    }

    /// Where our kernels run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where tensors are.
    pub fn tensors(&self) -> &candle_core::Device {
        &self.tensors
    }
}

/// An error of a device as one of Candle's.
pub(crate) fn failed(error: DeviceError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
