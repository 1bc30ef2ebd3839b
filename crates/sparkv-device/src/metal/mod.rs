//! GPUs of Apple silicon.
//!
//! Launches join the stream of commands that a [`Stream`] has, in which Candle's are, too. Buffers are not tracked by Metal:
//! who runs before whom follows from which buffers a launch says that it reads and writes, whole buffers for that matter.

mod found;
#[cfg(feature = "shim")]
mod host;
mod pipelines;
mod plans;
mod stream;

use std::sync::Arc;

use candle_metal_kernels::RESOURCE_OPTIONS;
use candle_metal_kernels::metal::Buffer;
use objc2_metal::{MTLDevice, MTLResourceOptions, MTLSize};

use crate::error::DeviceError;
use crate::launch::{ARGUMENTS, Launch, Place, View};
pub use found::{Found, check, devices};
use pipelines::Pipelines;
use plans::Plans;
pub use stream::{Queue, Stream, StreamError};

/// Threads of a group.
const LANES: usize = 32;

/// Bytes that are copied together.
const WORD: usize = 4;

/// Memory of the GPU's alone; [`RESOURCE_OPTIONS`] is what the process sees, too.
const PRIVATE: MTLResourceOptions = MTLResourceOptions(
    MTLResourceOptions::StorageModePrivate.0 | MTLResourceOptions::HazardTrackingModeUntracked.0,
);

/// A GPU. Clones are the same.
#[derive(Clone)]
pub struct Metal {
    stream: Arc<dyn Stream>,
    pipelines: Arc<Pipelines>,
    plans: Arc<Plans>,
}

/// Memory of the GPU.
#[derive(Debug)]
pub(crate) struct Allocation {
    buffer: Buffer,
    metal: Metal,
}

impl Metal {
    /// The GPU of this stream.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if kernels do not run there.
    pub fn new(stream: Arc<dyn Stream>) -> Result<Self, DeviceError> {
        found::family(stream.device())?;
        let pipelines = Arc::new(Pipelines::new(stream.device().clone()));
        let plans = Arc::new(Plans::new(stream.device().clone()));
        Ok(Self { stream, pipelines, plans })
    }

    /// Bytes that can be allocated: of what the GPU keeps at hand at once, what this process has not taken.
    pub(crate) fn free_memory(&self) -> usize {
        let device = self.stream.device();
        device.recommended_max_working_set_size().saturating_sub(device.current_allocated_size())
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Allocation, DeviceError> {
        let failed = |reason: String| DeviceError::Memory { bytes, reason };
        let (most, free) = (self.stream.device().as_ref().maxBufferLength(), self.free_memory());
        if bytes > most {
            return Err(failed(format!("a buffer of this GPU has {most} at most")));
        }
        if bytes > free {
            return Err(failed(format!("{free} of what the GPU can keep at hand are not taken")));
        }
        // Zeros, says Metal; and it has no buffers of nothing.
        let buffer = self.stream.device().new_buffer(bytes.max(WORD), PRIVATE);
        let buffer = buffer.map_err(|error| failed(error.to_string()))?;
        self.stream.keep(&buffer);
        Ok(Allocation { buffer, metal: self.clone() })
    }

    pub(crate) fn upload(&self, to: View<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        let (buffer, offset) = buffer_of("upload", &to)?;
        check_words("upload", offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let staged = self.shared(bytes)?;
        let mut copies = self.stream.copies().map_err(failed("upload"))?;
        copies.copy_from_buffer(&staged, 0, buffer, offset, bytes.len());
        Ok(())
    }

    pub(crate) fn download(&self, from: View<'_>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (buffer, offset) = buffer_of("download", &from)?;
        check_words("download", offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let staged = self.stream.device().new_buffer(bytes.len(), RESOURCE_OPTIONS);
        let staged =
            staged.map_err(|error| DeviceError::Memory { bytes: bytes.len(), reason: error.to_string() })?;
        // The stream is locked for as long as one copies.
        let mut copies = self.stream.copies().map_err(failed("download"))?;
        copies.copy_from_buffer(buffer, offset, &staged, 0, bytes.len());
        drop(copies);
        self.stream.wait().map_err(failed("download"))?;
        // SAFETY: the buffer has as many bytes, the process sees it, and the GPU is done with it.
        unsafe { std::ptr::copy_nonoverlapping(staged.contents(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// As [`crate::Device::launch`].
    pub(crate) unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        #[cfg(feature = "shim")]
        if launch.arguments.iter().any(|view| matches!(view.place, Place::Address(..))) {
            // SAFETY: as the caller promises.
            return unsafe { host::launch(self, launch) };
        }
        if u32::try_from(launch.groups).is_err() {
            return Err(DeviceError::unfit(launch.kernel, format!("{} groups", launch.groups)));
        }
        let pipeline = self.pipelines.get(launch.kernel, &launch.constants)?;
        let (plan, behind) = self.plans.add(launch.plan)?;
        let mut arguments = Vec::with_capacity(launch.arguments.len());
        for view in launch.arguments {
            arguments.push((buffer_of(launch.kernel, view)?, view.is_writable()));
        }
        let commands = self.stream.commands().map_err(failed(launch.kernel))?;
        let encoder = commands.as_ref();
        encoder.set_compute_pipeline_state(&pipeline);
        for (index, ((buffer, offset), writable)) in arguments.into_iter().enumerate() {
            if writable {
                encoder.set_output_buffer(index, Some(buffer), offset);
            } else {
                encoder.set_input_buffer(index, Some(buffer), offset);
            }
        }
        encoder.set_input_buffer(ARGUMENTS, Some(&plan), behind);
        let line = |width| MTLSize { width, height: 1, depth: 1 };
        encoder.dispatch_thread_groups(line(launch.groups), line(LANES));
        Ok(())
    }

    /// A buffer with these bytes, which lives until the GPU is done with it.
    fn shared(&self, bytes: &[u8]) -> Result<Buffer, DeviceError> {
        let bytes = if bytes.is_empty() { &[0; WORD] } else { bytes };
        let device = self.stream.device();
        device
            .new_buffer_with_data(bytes.as_ptr().cast(), bytes.len(), RESOURCE_OPTIONS)
            .map_err(|error| DeviceError::Memory { bytes: bytes.len(), reason: error.to_string() })
    }
}

impl std::fmt::Debug for Metal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Metal").field(&self.stream.device().as_ref().name()).finish()
    }
}

impl Allocation {
    pub(crate) fn place(&self) -> Place<'_> {
        Place::Metal(&self.buffer, 0)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // What is kept at hand may go only after the GPU is done with it. If waiting fails, the GPU is done with everything.
        let _ = self.metal.stream.wait();
        self.metal.stream.forget(&self.buffer);
    }
}

impl<'a> View<'a> {
    /// All of a buffer, for kernels to write where `writable`.
    pub fn of_metal(buffer: &'a Buffer, writable: bool) -> Self {
        Self::new(Place::Metal(buffer, 0), buffer.length(), writable)
    }
}

fn buffer_of<'a>(kernel: &'static str, view: &View<'a>) -> Result<(&'a Buffer, usize), DeviceError> {
    match view.place {
        Place::Metal(buffer, offset) => Ok((buffer, offset)),
        Place::Address(..) => Err(DeviceError::unfit(kernel, "memory of another device")),
    }
}

fn check_words(what: &'static str, offset: usize, bytes: usize) -> Result<(), DeviceError> {
    if offset.is_multiple_of(WORD) && bytes.is_multiple_of(WORD) {
        return Ok(());
    }
    Err(DeviceError::unfit(
        what,
        format!("{bytes} bytes behind {offset}: Metal copies words of {WORD} bytes"),
    ))
}

fn failed(kernel: &'static str) -> impl FnOnce(StreamError) -> DeviceError {
    move |error| DeviceError::Launch { kernel, reason: error.to_string() }
}
