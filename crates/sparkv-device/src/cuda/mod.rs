//! NVIDIA's GPUs.
//!
//! Everything is launched on one stream, which is Candle's in a server: so it runs in the order in which it was asked for,
//! between what Candle launches. Kernels are compiled when they are first needed, each for the GPU and the constants at hand
//! ([`Program`]), and kept on disk.

mod cache;
mod compile;
mod found;
pub(crate) mod pointer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{memcpy_dtoh_async, memcpy_htod_async};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{ARGUMENTS, Launch, Place, View};
use cache::Cache;
pub use compile::{Compiled, Program, Target};
pub use found::{Found, Releases, check, devices, releases};
pub(crate) use pointer::Allocation;
use pointer::Pointer;

/// Lanes of a group.
const LANES: u32 = 32;

/// The least compute capability whose products of matrices kernels use, as kernels/cuda.h has it.
const WITH_MATRIX_UNITS: u32 = 80;

/// A GPU and the stream that kernels are launched on. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cuda(Arc<State>);

#[derive(Debug)]
struct State {
    stream: Arc<CudaStream>,
    found: Found,
    target: Target,
    cache: Cache,
    functions: Mutex<HashMap<(&'static str, Constants), CudaFunction>>,
    /// The plan of what was launched last. The next one is copied in the order of the stream, so when that has ended.
    plan: Mutex<Option<PlanMemory>>,
}

#[derive(Debug)]
struct PlanMemory {
    held: Allocation,
    words: usize,
}

impl Cuda {
    /// The GPU that `stream` is of.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if kernels do not run there, or the stream is a default one: that of a thread is another one
    /// in each thread, so nothing would order what several of them launch.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self, DeviceError> {
        // Handles of default streams are small numbers, others are addresses.
        if (stream.cu_stream() as usize) < 16 {
            let reason = "a stream of its own is needed (candle_core::Device::new_cuda_with_stream), not the default one";
            return Err(DeviceError::Unsupported { reason: reason.into() });
        }
        let (found, target) = check(stream.context().ordinal())?;
        let cache = Cache::of_environment();
        let (functions, plan) = Default::default();
        Ok(Self(Arc::new(State { stream, found, target, cache, functions, plan })))
    }

    /// Memory for `count` numbers that a kernel is to write, on the stream's GPU: until then they are any numbers.
    ///
    /// # Errors
    /// If there is not as much.
    pub fn numbers(stream: &Arc<CudaStream>, count: usize) -> Result<CudaSlice<f32>, DeviceError> {
        // SAFETY: whatever lies there are numbers. (The driver has no memory of no bytes.)
        let numbers = unsafe { stream.alloc::<f32>(count.max(1)) };
        let bytes = count * size_of::<f32>();
        numbers.map_err(|error| DeviceError::Memory { bytes, reason: said(error) })
    }

    /// Whether there is the product of matrices that kernels use; asked of what is compiled for, as they are.
    pub(crate) fn has_matrix_units(&self) -> bool {
        let (Target::Machine(capability) | Target::Ptx(capability)) = self.0.target;
        capability >= WITH_MATRIX_UNITS
    }

    /// Which GPU it is.
    pub fn found(&self) -> &Found {
        &self.0.found
    }

    /// Bytes of memory that nobody holds.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn free_memory(&self) -> Result<usize, DeviceError> {
        self.0.stream.context().mem_get_info().map(|(free, _)| free).map_err(failed("memory"))
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Allocation, DeviceError> {
        Allocation::new(&self.0.stream, bytes).map_err(|error| {
            let free = self
                .free_memory()
                .map_or_else(|error| error.to_string(), |free| format!("{free} bytes are free"));
            DeviceError::Memory { bytes, reason: format!("{}; {free}", said(error)) }
        })
    }

    pub(crate) fn upload(&self, to: View<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        let pointer = self.pointer("upload", &to)?;
        // SAFETY: the view has as many bytes.
        unsafe { self.write(pointer.address(), bytes) }
            .and_then(|()| pointer.record(&self.0.stream))
            .map_err(failed("upload"))
    }

    pub(crate) fn download(&self, from: View<'_>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let pointer = self.pointer("download", &from)?;
        let State { stream, .. } = &*self.0;
        let mut copy = || {
            stream.context().bind_to_thread()?;
            if !bytes.is_empty() {
                // SAFETY: the view has as many bytes, and they stay borrowed until the copy is done.
                unsafe { memcpy_dtoh_async(bytes, pointer.address(), stream.cu_stream()) }?;
            }
            pointer.record(stream)?;
            stream.synchronize()
        };
        copy().map_err(failed("download"))
    }

    /// # Safety
    /// As [`crate::Device::launch`].
    pub(crate) unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let kernel = launch.kernel;
        let groups = i32::try_from(launch.groups).map(i32::unsigned_abs);
        let groups = groups.map_err(|_| DeviceError::unfit(kernel, format!("{} groups", launch.groups)))?;
        let pointers: Vec<Pointer<'_>> =
            launch.arguments.iter().map(|view| self.pointer(kernel, view)).collect::<Result<_, _>>()?;
        let function = self.function(kernel, &launch.constants)?;
        // Arguments that are left out are null.
        let mut addresses = [0_u64; ARGUMENTS + 1];
        for (address, pointer) in addresses.iter_mut().zip(&pointers) {
            *address = pointer.address();
        }
        // Nobody may copy a plan between this copy and its launch.
        let mut plan = lock(&self.0.plan);
        addresses[ARGUMENTS] = self.send_plan(&mut plan, launch.plan)?;
        let State { stream, .. } = &*self.0;
        let mut builder = stream.launch_builder(&function);
        for address in &addresses {
            builder.arg(address);
        }
        let shape = LaunchConfig { grid_dim: (groups, 1, 1), block_dim: (LANES, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: all kernels have these parameters (`PARAMETERS` in kernels/cuda.h); what they reach is the caller's promise.
        unsafe { builder.launch(shape) }.map_err(failed(kernel))?;
        drop(plan);
        pointers.iter().try_for_each(|pointer| pointer.record(stream)).map_err(failed(kernel))
    }

    /// Copies a plan to where the next launch reads it, and says where that is.
    fn send_plan(&self, memory: &mut Option<PlanMemory>, plan: &[u32]) -> Result<u64, DeviceError> {
        if memory.as_ref().is_none_or(|memory| memory.words < plan.len()) {
            let words = plan.len().next_power_of_two().max(1024);
            *memory = Some(PlanMemory { held: self.allocate(size_of::<u32>() * words)?, words });
        }
        let address = memory.as_ref().map_or(0, |memory| memory.held.pointer().address());
        // SAFETY: there is room for as many words.
        unsafe { self.write(address, bytemuck::cast_slice(plan)) }.map_err(failed("upload"))?;
        Ok(address)
    }

    /// Copies bytes to an address. They are taken before it returns.
    ///
    /// # Safety
    /// There is room for them.
    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let State { stream, .. } = &*self.0;
        stream.context().bind_to_thread()?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: as the caller promises; from memory that is not page-locked, the driver copies before it returns.
        unsafe { memcpy_htod_async(address, bytes, stream.cu_stream()) }
    }

    /// Where a view is, if it is of this device and its stream.
    fn pointer<'a>(&self, kernel: &'static str, view: &View<'a>) -> Result<Pointer<'a>, DeviceError> {
        match view.place {
            Place::Cuda(pointer) if pointer.is_on(&self.0.stream) => Ok(pointer),
            _ => Err(DeviceError::unfit(kernel, "memory of another device or stream")),
        }
    }

    /// A kernel that is compiled and loaded, now if need be.
    fn function(&self, kernel: &'static str, constants: &Constants) -> Result<CudaFunction, DeviceError> {
        let mut functions = lock(&self.0.functions);
        if let Some(function) = functions.get(&(kernel, *constants)) {
            return Ok(function.clone());
        }
        let program = Program::new(kernel, constants, self.0.target);
        let key = program.key();
        let kept = self.0.cache.load(kernel, &key).and_then(|image| self.load(kernel, image).ok());
        let function = match kept {
            Some(function) => function,
            None => {
                let Compiled { image, .. } = program.compile()?;
                self.0.cache.store(kernel, &key, &image);
                self.load(kernel, image)?
            }
        };
        functions.insert((kernel, *constants), function.clone());
        Ok(function)
    }

    fn load(&self, kernel: &'static str, image: Vec<u8>) -> Result<CudaFunction, DeviceError> {
        let module = self.0.stream.context().load_module(Ptx::from_binary(image));
        module.and_then(|module| module.load_function(kernel)).map_err(|error| {
            let Releases { driver, compiler } = releases();
            let reason = format!(
                "the driver, which knows CUDA {}.{}, does not load what CUDA {}.{} made of it for {}: {}",
                driver.0,
                driver.1,
                compiler.0,
                compiler.1,
                self.0.found.name,
                said(error)
            );
            DeviceError::Launch { kernel, reason }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(kernel: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Launch { kernel, reason: said(error) }
}

/// What the driver says, and what follows from it.
fn said(error: DriverError) -> String {
    let name = format!("{:?}", error.0);
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    match error.0 {
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | CUresult::CUDA_ERROR_LAUNCH_FAILED => {
            format!("{name}: {text} (of this or an earlier launch; the process must end)")
        }
        _ => format!("{name}: {text}"),
    }
}
