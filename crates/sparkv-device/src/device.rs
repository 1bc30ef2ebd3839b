//! A device: where memory is and kernels run.

#[cfg(feature = "cuda")]
use crate::cuda::{self, Cuda};
use crate::error::DeviceError;
use crate::launch::{ARGUMENTS, Launch, View};
#[cfg(feature = "metal")]
use crate::metal::{self, Metal};
#[cfg(feature = "shim")]
use crate::shim::{self, Checks, Shim};

/// A device. Clones are the same device.
#[derive(Debug, Clone)]
pub enum Device {
    /// A GPU of NVIDIA's.
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
    /// A GPU that is simulated on the CPU.
    #[cfg(feature = "shim")]
    Shim(Shim),
    /// A GPU of Apple silicon.
    #[cfg(feature = "metal")]
    Metal(Metal),
}

/// Memory of a device, free again when this is dropped.
#[derive(Debug)]
pub struct Memory {
    held: Held,
    bytes: usize,
}

#[derive(Debug)]
enum Held {
    #[cfg(feature = "cuda")]
    Cuda(cuda::Allocation),
    #[cfg(feature = "shim")]
    Shim(shim::Allocation),
    #[cfg(feature = "metal")]
    Metal(metal::Allocation),
}

impl Device {
    /// A simulated device for a test; none where it was left out of this build, which is told, and fails in CI.
    /// With the feature `metal` and `SPARKV_TEST_DEVICE=metal`, the first GPU, for all tests to run there.
    ///
    /// # Panics
    /// If there is none and the variable `CI` is `true`, or if that GPU cannot be used.
    #[cfg(feature = "shim")]
    #[allow(clippy::panic, clippy::print_stderr, reason = "for tests")]
    pub fn simulated(checks: Checks, seed: u64) -> Option<Self> {
        #[cfg(feature = "metal")]
        if std::env::var("SPARKV_TEST_DEVICE").is_ok_and(|device| device == "metal") {
            let gpu = metal::Queue::new(0).and_then(|queue| Metal::new(std::sync::Arc::new(queue)));
            return Some(Self::Metal(gpu.unwrap_or_else(|error| panic!("{error}"))));
        }
        match Shim::new(checks, seed) {
            Ok(shim) => Some(Self::Shim(shim)),
            Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{error}"),
            Err(error) => {
                eprintln!("not run: {error}");
                None
            }
        }
    }

    /// Memory of `bytes` bytes, zeros.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] if there is not as much.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let held = match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref cuda) => Held::Cuda(cuda.allocate(bytes)?),
            #[cfg(feature = "shim")]
            Self::Shim(_) => Held::Shim(shim::Allocation::new(bytes)?),
            #[cfg(feature = "metal")]
            Self::Metal(ref metal) => Held::Metal(metal.allocate(bytes)?),
        };
        Ok(Memory { held, bytes })
    }

    /// Bytes of its memory that are free.
    ///
    /// # Errors
    /// If the driver does not tell.
    pub fn free_memory(&self) -> Result<u64, DeviceError> {
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref cuda) => cuda.free_memory().map(|free| free as u64),
            #[cfg(feature = "shim")]
            Self::Shim(_) => Err(DeviceError::Missing { what: "memory of its own" }),
            #[cfg(feature = "metal")]
            Self::Metal(ref metal) => Ok(metal.free_memory() as u64),
        }
    }

    /// Whether kernels may use matrix units (`HAS_MMA` of the kernels' language).
    pub(crate) fn has_matrix_units(&self) -> bool {
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref cuda) => cuda.has_matrix_units(),
            #[cfg(feature = "shim")]
            Self::Shim(_) => true,
            #[cfg(feature = "metal")]
            Self::Metal(_) => false,
        }
    }

    /// Copies `bytes` to the beginning of `to`, after what was launched before.
    ///
    /// # Errors
    /// If there is no room for them, or the driver fails.
    pub fn upload(&self, to: View<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        check_copy("upload", &to, bytes.len())?;
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref cuda) => cuda.upload(to, bytes),
            #[cfg(feature = "shim")]
            Self::Shim(ref shim) => shim.upload(to, bytes),
            #[cfg(feature = "metal")]
            Self::Metal(ref metal) => metal.upload(to, bytes),
        }
    }

    /// Copies the beginning of `from` to `bytes`, after what was launched before; waits for it.
    ///
    /// # Errors
    /// If there are not as many, or the driver fails.
    pub fn download(&self, from: View<'_>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        check_copy("download", &from, bytes.len())?;
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref cuda) => cuda.download(from, bytes),
            #[cfg(feature = "shim")]
            Self::Shim(ref shim) => shim.download(from, bytes),
            #[cfg(feature = "metal")]
            Self::Metal(ref metal) => metal.download(from, bytes),
        }
    }

    /// Launches a kernel, after what was launched before.
    ///
    /// # Safety
    /// With this plan, the kernel must reach no further than its arguments go, and write to none that is not writable.
    ///
    /// # Errors
    /// If it is not compiled, or the driver fails.
    #[allow(unsafe_code, reason = "a kernel does what its plan says")]
    pub(crate) unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        if launch.groups == 0 {
            return Ok(());
        }
        if launch.arguments.len() > ARGUMENTS {
            return Err(DeviceError::unfit(launch.kernel, format!("{} arguments", launch.arguments.len())));
        }
        match *self {
            #[cfg(feature = "cuda")]
            // SAFETY: as the caller promises.
            Self::Cuda(ref cuda) => unsafe { cuda.launch(launch) },
            #[cfg(feature = "shim")]
            // SAFETY: as the caller promises.
            Self::Shim(ref shim) => unsafe { shim.launch(launch) },
            #[cfg(feature = "metal")]
            // SAFETY: as the caller promises.
            Self::Metal(ref metal) => unsafe { metal.launch(launch) },
        }
    }
}

impl Memory {
    /// All of it, for kernels to read and write.
    pub fn view(&self) -> View<'_> {
        let place = match self.held {
            #[cfg(feature = "cuda")]
            Held::Cuda(ref allocation) => crate::launch::Place::Cuda(allocation.pointer()),
            #[cfg(feature = "shim")]
            Held::Shim(ref allocation) => allocation.place(),
            #[cfg(feature = "metal")]
            Held::Metal(ref allocation) => allocation.place(),
        };
        View::new(place, self.bytes, true)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn check_copy(what: &'static str, view: &View<'_>, bytes: usize) -> Result<(), DeviceError> {
    view.check(what, [bytes, 1], what == "upload")
}
