//! A device: where memory is and kernels run.

use std::marker::PhantomData;

use crate::error::DeviceError;
use crate::kernel::Constants;
#[cfg(feature = "shim")]
use crate::shim::{self, Shim};

/// Buffers that a kernel may be given beside its plan.
pub(crate) const ARGUMENTS: usize = 8;

/// A device. Clones are the same device.
#[derive(Debug, Clone)]
pub enum Device {
    /// A GPU that is simulated on the CPU.
    #[cfg(feature = "shim")]
    Shim(Shim),
}

/// Memory of a device, free again when this is dropped.
#[derive(Debug)]
pub struct Memory {
    held: Held,
    bytes: usize,
}

#[derive(Debug)]
enum Held {
    #[cfg(feature = "shim")]
    Shim(shim::Allocation),
}

/// Bytes of a device's memory, borrowed for as long as a call takes. Where kernels may write to them, they are borrowed for
/// that alone, or nobody reads them by other ways ([`Memory`]).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) place: Place,
    bytes: usize,
    writable: bool,
    _borrowed: PhantomData<&'a ()>,
}

/// Where memory is, as the device's driver wants to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// An address.
    #[allow(dead_code, reason = "without a device in this build")]
    Address(u64),
}

/// A kernel to be launched. Arguments that it does not use are left out.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'static str,
    pub(crate) constants: Constants,
    pub(crate) groups: usize,
    pub(crate) arguments: &'a [View<'a>],
    pub(crate) plan: &'a [u32],
}

impl Device {
    /// Memory of `bytes` bytes, zeros.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] if there is not as much.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let held = match self {
            #[cfg(feature = "shim")]
            Self::Shim(_) => Held::Shim(shim::Allocation::new(bytes)?),
        };
        Ok(Memory { held, bytes })
    }

    /// Copies `bytes` to the beginning of `to`, after what was launched before.
    ///
    /// # Errors
    /// If there is no room for them, or the driver fails.
    pub fn upload(&self, to: View<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        check_copy("upload", &to, bytes.len())?;
        match self {
            #[cfg(feature = "shim")]
            Self::Shim(shim) => shim.upload(to, bytes),
        }
    }

    /// Copies the beginning of `from` to `bytes`, after what was launched before; waits for it.
    ///
    /// # Errors
    /// If there are not as many, or the driver fails.
    pub fn download(&self, from: View<'_>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        check_copy("download", &from, bytes.len())?;
        match self {
            #[cfg(feature = "shim")]
            Self::Shim(shim) => shim.download(from, bytes),
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
        match self {
            #[cfg(feature = "shim")]
            // SAFETY: as the caller promises.
            Self::Shim(shim) => unsafe { shim.launch(launch) },
        }
    }
}

impl Memory {
    /// All of it, for kernels to read and write.
    pub fn view(&self) -> View<'_> {
        let place = match &self.held {
            #[cfg(feature = "shim")]
            Held::Shim(allocation) => Place::Address(allocation.address()),
        };
        View { place, bytes: self.bytes, writable: true, _borrowed: PhantomData }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<'a> View<'a> {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether kernels may write to it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Numbers in the process's memory, for a simulated device to read.
    #[cfg(feature = "shim")]
    pub fn of_host<T: bytemuck::NoUninit>(values: &'a [T]) -> Self {
        let place = Place::Address(values.as_ptr() as u64);
        Self { place, bytes: size_of_val(values), writable: false, _borrowed: PhantomData }
    }

    /// Numbers in the process's memory, for a simulated device to write.
    #[cfg(feature = "shim")]
    pub fn of_host_mut<T: bytemuck::Pod>(values: &'a mut [T]) -> Self {
        let place = Place::Address(values.as_mut_ptr() as u64);
        Self { place, bytes: size_of_val(values), writable: true, _borrowed: PhantomData }
    }

    /// Checks that there are `count` numbers of `size` bytes at least, to be written where `writes`.
    pub(crate) fn check(
        &self,
        kernel: &'static str,
        [count, size]: [usize; 2],
        writes: bool,
    ) -> Result<(), DeviceError> {
        if count.checked_mul(size).is_none_or(|bytes| bytes > self.bytes) {
            let reason = format!("{count} numbers of {size} bytes do not fit into {} bytes", self.bytes);
            return Err(DeviceError::unfit(kernel, reason));
        }
        if writes && !self.writable {
            return Err(DeviceError::unfit(kernel, "memory that is only to be read"));
        }
        Ok(())
    }
}

fn check_copy(what: &'static str, view: &View<'_>, bytes: usize) -> Result<(), DeviceError> {
    view.check(what, [bytes, 1], what == "upload")
}
