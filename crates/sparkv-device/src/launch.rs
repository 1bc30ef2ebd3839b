//! What a kernel is given: memory, and a plan.

use std::marker::PhantomData;

use crate::error::DeviceError;
use crate::kernel::Constants;

/// Buffers that a kernel may be given beside its plan.
pub(crate) const ARGUMENTS: usize = 8;

/// Bytes of a device's memory, borrowed for as long as a call takes. Where kernels may write to them, they are borrowed for
/// that alone, or nobody reads them by other ways ([`Memory`](crate::Memory)).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) place: Place<'a>,
    bytes: usize,
    writable: bool,
}

/// Where memory is, as the device's driver wants to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// An address.
    #[allow(dead_code, reason = "without a device in this build")]
    Address(u64, PhantomData<&'a ()>),
    /// An address, and how its uses are ordered.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::pointer::Pointer<'a>),
    /// Bytes behind the beginning of a buffer.
    #[cfg(feature = "metal")]
    Metal(&'a candle_metal_kernels::metal::Buffer, usize),
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

impl Place<'_> {
    /// The address, on a device whose memory has no more than that.
    #[cfg(feature = "shim")]
    #[allow(unused_variables, reason = "without another device in this build")]
    pub(crate) fn address(self, kernel: &'static str) -> Result<u64, DeviceError> {
        match self {
            Self::Address(address, _) => Ok(address),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(DeviceError::unfit(kernel, "memory of another device")),
            #[cfg(feature = "metal")]
            Self::Metal(..) => Err(DeviceError::unfit(kernel, "memory of another device")),
        }
    }

    /// `bytes` bytes further.
    fn offset(self, bytes: usize) -> Self {
        match self {
            Self::Address(address, borrowed) => Self::Address(address + bytes as u64, borrowed),
            #[cfg(feature = "cuda")]
            Self::Cuda(pointer) => Self::Cuda(pointer.offset(bytes)),
            #[cfg(feature = "metal")]
            Self::Metal(buffer, first) => Self::Metal(buffer, first + bytes),
        }
    }

    fn is_same(self, other: Place<'_>) -> bool {
        match (self, other) {
            (Self::Address(one, _), Place::Address(other, _)) => one == other,
            #[cfg(feature = "cuda")]
            (Self::Cuda(one), Place::Cuda(other)) => one.address() == other.address(),
            #[cfg(feature = "metal")]
            (Self::Metal(one, first), Place::Metal(other, second)) => one == other && first == second,
            #[cfg(any(feature = "cuda", feature = "metal"))]
            _ => false,
        }
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(place: Place<'a>, bytes: usize, writable: bool) -> Self {
        Self { place, bytes, writable }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `bytes` bytes of it, from the byte `start` on.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn part(self, start: usize, bytes: usize) -> Result<Self, DeviceError> {
        if start.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let reason = format!("{bytes} bytes from {start} on, of {}", self.bytes);
            return Err(DeviceError::unfit("a part of memory", reason));
        }
        Ok(Self { place: self.place.offset(start), bytes, ..self })
    }

    /// The same, for kernels that only read it.
    pub fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// Whether this and the other begin at the same place.
    pub(crate) fn is_same_place(&self, other: &View<'_>) -> bool {
        self.place.is_same(other.place)
    }

    /// Whether kernels may write to it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Numbers on a GPU, for kernels to read that are launched on `stream`.
    ///
    /// # Errors
    /// If they are ordered by another stream.
    #[cfg(feature = "cuda")]
    pub fn of_cuda<T>(
        stream: &'a cudarc::driver::CudaStream,
        values: cudarc::driver::CudaView<'a, T>,
    ) -> Result<Self, DeviceError> {
        let bytes = size_of::<T>() * values.len();
        match crate::cuda::pointer::Pointer::read(stream, values) {
            Some(pointer) => Ok(Self::new(Place::Cuda(pointer), bytes, false)),
            None => Err(DeviceError::unfit("a view", "memory of another stream")),
        }
    }

    /// Numbers on a GPU, for kernels to write that are launched on `stream`.
    ///
    /// # Errors
    /// If they are ordered by another stream.
    #[cfg(feature = "cuda")]
    pub fn of_cuda_mut<T>(
        stream: &'a cudarc::driver::CudaStream,
        values: cudarc::driver::CudaViewMut<'a, T>,
    ) -> Result<Self, DeviceError> {
        let bytes = size_of::<T>() * values.len();
        match crate::cuda::pointer::Pointer::write(stream, values) {
            Some(pointer) => Ok(Self::new(Place::Cuda(pointer), bytes, true)),
            None => Err(DeviceError::unfit("a view", "memory of another stream")),
        }
    }

    /// Numbers in the process's memory, for a simulated device to read.
    #[cfg(feature = "shim")]
    pub fn of_host<T: bytemuck::NoUninit>(values: &'a [T]) -> Self {
        let place = Place::Address(values.as_ptr() as u64, PhantomData);
        Self { place, bytes: size_of_val(values), writable: false }
    }

    /// Numbers in the process's memory, for a simulated device to write.
    #[cfg(feature = "shim")]
    pub fn of_host_mut<T: bytemuck::Pod>(values: &'a mut [T]) -> Self {
        let place = Place::Address(values.as_mut_ptr() as u64, PhantomData);
        Self { place, bytes: size_of_val(values), writable: true }
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

/// Numbers of a plan.
pub(crate) fn words<const N: usize>(
    kernel: &'static str,
    numbers: [usize; N],
) -> Result<[u32; N], DeviceError> {
    let mut words = [0; N];
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = u32::try_from(number)
            .map_err(|_| DeviceError::unfit(kernel, format!("{number} is more than a plan can say")))?;
    }
    Ok(words)
}
