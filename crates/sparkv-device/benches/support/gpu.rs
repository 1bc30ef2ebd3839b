//! The GPU, and how long it takes.

#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::time::Instant;

#[cfg(feature = "metal")]
use candle_metal_kernels::metal::Buffer;
#[cfg(feature = "cuda")]
use cudarc::driver::sys::CUevent_flags;
#[cfg(feature = "cuda")]
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
#[cfg(feature = "metal")]
use sparkv_device::metal::{Queue, Stream};
use sparkv_device::{Device, Memory};

use super::Result;
use super::options::Options;

/// A GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: Device,
    pub(crate) name: String,
    /// Memory that is read where the GPU is to be waited for.
    word: Memory,
    driver: Driver,
}

/// What the GPU's driver is asked for by itself.
enum Driver {
    #[cfg(feature = "cuda")]
    Cuda(Arc<CudaStream>),
    #[cfg(feature = "metal")]
    Metal(std::sync::Arc<Queue>),
    #[cfg(feature = "shim")]
    Simulated,
}

/// Two pieces of memory, one of which the driver copies to the other.
pub(crate) enum DriverCopy {
    #[cfg(feature = "cuda")]
    Cuda(Arc<CudaStream>, [CudaSlice<u8>; 2]),
    #[cfg(feature = "metal")]
    Metal(std::sync::Arc<Queue>, [Buffer; 2]),
}

impl Gpu {
    /// The GPU that is asked for, of the kind that this build is for.
    ///
    /// # Errors
    /// If there is none, or kernels do not run on it.
    #[allow(clippy::needless_return, reason = "of several features")]
    pub(crate) fn open(options: &Options) -> Result<Self> {
        #[cfg(feature = "cuda")]
        {
            sparkv_device::cuda::check(options.gpu)?;
            let stream = CudaContext::new(options.gpu)?.new_stream()?;
            let cuda = sparkv_device::cuda::Cuda::new(stream.clone())?;
            let found = cuda.found();
            let name = format!("{} ({})", found.name, f64::from(found.capability) / 10.0);
            return Self::new(Device::Cuda(cuda), name, Driver::Cuda(stream));
        }
        #[cfg(all(feature = "metal", not(feature = "cuda")))]
        {
            let queue = std::sync::Arc::new(Queue::new(options.gpu)?);
            let name = sparkv_device::metal::devices().swap_remove(options.gpu).name;
            let metal = sparkv_device::metal::Metal::new(queue.clone())?;
            return Self::new(Device::Metal(metal), name, Driver::Metal(queue));
        }
        #[cfg(all(feature = "shim", not(any(feature = "cuda", feature = "metal"))))]
        if options.smoke {
            return Self::simulated().ok_or_else(|| "the simulated GPU is left out of this build".into());
        }
        #[cfg(not(any(feature = "cuda", feature = "metal")))]
        return Err(format!(
            "GPU {}: this bench is built without one: --features cuda, or metal (with --features shim, --smoke tries it)",
            options.gpu
        )
        .into());
    }

    /// A simulated one.
    #[cfg(feature = "shim")]
    pub(crate) fn simulated() -> Option<Self> {
        let device = Device::simulated(sparkv_device::Checks::Bounds, 0)?;
        Self::new(device, "simulated".into(), Driver::Simulated).ok()
    }

    fn new(device: Device, name: String, driver: Driver) -> Result<Self> {
        let word = device.allocate(4)?;
        Ok(Self { device, name, word, driver })
    }

    /// What measures.
    pub(crate) fn clock(&self) -> &'static str {
        match self.driver {
            #[cfg(feature = "cuda")]
            Driver::Cuda(_) => "events of the GPU around launches that follow one another",
            #[cfg(feature = "metal")]
            Driver::Metal(_) => "the clock around launches that follow one another, and one wait",
            #[cfg(feature = "shim")]
            Driver::Simulated => "the clock around a simulation: of no meaning",
        }
    }

    /// Bytes of memory that are free; `None` where that is not known.
    pub(crate) fn free_memory(&self) -> Option<usize> {
        self.device.free_memory().ok().map(|free| free as usize)
    }

    /// Waits for all that was launched.
    pub(crate) fn wait(&self) -> Result<()> {
        Ok(self.device.download(self.word.view(), &mut [0; 4])?)
    }

    /// Seconds that each of `times` pieces of work takes, one behind the other: `work` is called with their numbers.
    pub(crate) fn seconds(&self, times: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        self.wait()?;
        #[cfg(feature = "cuda")]
        #[allow(irrefutable_let_patterns, reason = "in a build for CUDA alone")]
        if let Driver::Cuda(stream) = &self.driver {
            let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            let start = event()?;
            (0..times).try_for_each(&mut work)?;
            return Ok(f64::from(start.elapsed_ms(&event()?)?) / 1e3 / times as f64);
        }
        let start = Instant::now();
        (0..times).try_for_each(&mut work)?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    }

    /// How many times work is to be done, for a measurement to take about as long as `options` say. Does it once or twice: what
    /// is measured has been compiled.
    pub(crate) fn times(
        &self,
        options: &Options,
        mut work: impl FnMut(usize) -> Result<()>,
    ) -> Result<usize> {
        work(0)?;
        let seconds = self.seconds(1, &mut work)?.max(1e-7);
        Ok(((options.sample_seconds() / seconds).ceil() as usize).clamp(1, 2000))
    }

    /// Memory for the driver to copy `bytes` bytes in; none where there is no driver.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "metal")),
        allow(unused_variables, reason = "a build without a driver")
    )]
    pub(crate) fn driver_copy(&self, bytes: usize) -> Result<Option<DriverCopy>> {
        match self.driver {
            #[cfg(feature = "cuda")]
            Driver::Cuda(ref stream) => {
                let memory = [stream.alloc_zeros(bytes)?, stream.alloc_zeros(bytes)?];
                Ok(Some(DriverCopy::Cuda(stream.clone(), memory)))
            }
            #[cfg(feature = "metal")]
            Driver::Metal(ref queue) => {
                let buffer = || -> Result<Buffer> {
                    let buffer = queue.device().new_buffer(bytes, candle_metal_kernels::RESOURCE_OPTIONS)?;
                    queue.keep(&buffer);
                    Ok(buffer)
                };
                Ok(Some(DriverCopy::Metal(queue.clone(), [buffer()?, buffer()?])))
            }
            #[cfg(feature = "shim")]
            Driver::Simulated => Ok(None),
        }
    }
}

impl DriverCopy {
    /// Copies `bytes` bytes from the byte `start` on.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "metal")),
        allow(unused_variables, unreachable_code, reason = "a build without a driver")
    )]
    pub(crate) fn copy(&mut self, start: usize, bytes: usize) -> Result<()> {
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref stream, [ref from, ref mut to]) => {
                let part = start..start + bytes;
                stream.memcpy_dtod(&from.slice(part.clone()), &mut to.slice_mut(part))?;
            }
            #[cfg(feature = "metal")]
            Self::Metal(ref queue, [ref from, ref to]) => {
                queue.copies()?.copy_from_buffer(from, start, to, start, bytes);
            }
        }
        Ok(())
    }
}

#[cfg(feature = "metal")]
impl Drop for DriverCopy {
    fn drop(&mut self) {
        #[allow(irrefutable_let_patterns, reason = "in a build for Metal alone")]
        if let Self::Metal(queue, buffers) = self {
            // If waiting fails, the GPU is done with everything.
            let _ = queue.wait();
            buffers.iter().for_each(|buffer| queue.forget(buffer));
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}
