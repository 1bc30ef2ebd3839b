//! Addresses in a GPU's memory, and the order of their uses.

use cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceSlice, DriverError, SyncOnDrop,
};
use std::sync::Arc;

/// An address, to be used by what is launched on one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pointer<'a> {
    address: u64,
    stream: usize,
    /// Where other streams look whether it is still in use.
    used: Option<&'a CudaEvent>,
}

impl<'a> Pointer<'a> {
    /// Memory that is read on `stream`; `None` if it is another stream's.
    pub(crate) fn read<T>(stream: &'a CudaStream, view: CudaView<'a, T>) -> Option<Self> {
        is_of(&view, stream).then(|| Self::new(stream, view.view_ptr(stream)))
    }

    /// Memory that is written on `stream`; `None` if it is another stream's.
    pub(crate) fn write<T>(stream: &'a CudaStream, view: CudaViewMut<'a, T>) -> Option<Self> {
        is_of(&view, stream).then(|| Self::new(stream, view.view_ptr_mut(stream)))
    }

    fn new(stream: &CudaStream, (address, mut guard): (u64, SyncOnDrop<'a>)) -> Self {
        // What the guard would record when it is dropped, before there is a launch.
        let used = match &mut guard {
            SyncOnDrop::Record(target) => target.take().map(|(event, _)| event),
            SyncOnDrop::Sync(_) => None,
        };
        Self { address, stream: handle(stream), used }
    }

    pub(crate) fn address(self) -> u64 {
        self.address
    }

    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self { address: self.address + bytes as u64, ..self }
    }

    /// Whether it is used on this stream.
    pub(crate) fn is_on(self, stream: &CudaStream) -> bool {
        self.stream == handle(stream)
    }

    /// Lets other streams know that it is in use until what was launched is done.
    pub(crate) fn record(self, stream: &CudaStream) -> Result<(), DriverError> {
        match self.used {
            Some(event) if stream.context().is_managing_stream_synchronization() => event.record(stream),
            _ => Ok(()),
        }
    }
}

/// Memory that is held.
#[derive(Debug)]
pub(crate) struct Allocation {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Allocation {
    /// `bytes` bytes, zeros.
    pub(crate) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        // The driver has no memory of no bytes.
        let slice = stream.alloc_zeros::<u8>(bytes.max(1))?;
        let address = slice.as_view().view_ptr(stream).0;
        Ok(Self { slice, address })
    }

    /// Its uses are those of the stream that it was made on, so that there is nothing to record.
    pub(crate) fn pointer(&self) -> Pointer<'_> {
        Pointer { address: self.address, stream: handle(self.slice.stream()), used: None }
    }
}

fn is_of<T>(slice: &impl DeviceSlice<T>, stream: &CudaStream) -> bool {
    **slice.stream() == *stream
}

/// What tells streams apart, those of several GPUs too.
fn handle(stream: &CudaStream) -> usize {
    stream.cu_stream() as usize
}
