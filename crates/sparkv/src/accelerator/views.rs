//! Tensors as our kernels see them.
#![cfg_attr(
    not(any(feature = "shim", feature = "cuda", feature = "metal")),
    allow(dead_code, unused_imports, unused_variables, reason = "a build without any device")
)]

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(any(feature = "cuda", feature = "metal"))]
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail};
#[cfg(feature = "metal")]
use candle_core::{DType, MetalStorage, backend::BackendStorage};
use sparkv_device::View;

use super::{Accelerator, failed};

/// Calls `compute` with the values of a contiguous f32 tensor.
///
/// # Errors
/// As `compute`, or if the tensor is not that.
pub fn read<R>(tensor: &Tensor, compute: impl FnOnce(View<'_>) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => {
            let stream = storage.device.cuda_stream();
            let values = storage.as_cuda_slice::<f32>()?.as_view();
            compute(part(View::of_cuda(&stream, values).map_err(failed)?, layout)?)
        }
        #[cfg(feature = "metal")]
        Storage::Metal(storage) if storage.dtype() == DType::F32 => {
            compute(part(View::of_metal(storage.buffer(), false), layout)?)
        }
        #[cfg(feature = "shim")]
        Storage::Cpu(CpuStorage::F32(values)) => compute(part(View::of_host(values), layout)?),
        _ => bail!("no device of ours has {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

/// Has `compute` write to the values of a contiguous f32 tensor, which no other tensor may be read from meanwhile.
///
/// # Errors
/// As `compute`, or if the tensor is not that.
pub fn change(tensor: &Tensor, compute: impl Fn(View<'_>) -> Result<()>) -> Result<()> {
    tensor.inplace_op1(&Change(compute))
}

/// A tensor of f32, all values of which `compute` writes.
///
/// # Errors
/// As `compute`, or if there is not as much memory.
pub fn make(
    accelerator: &Accelerator,
    shape: impl Into<Shape>,
    compute: impl FnOnce(View<'_>) -> Result<()>,
) -> Result<Tensor> {
    let shape = shape.into();
    match accelerator.tensors() {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => {
            let stream = device.cuda_stream();
            let mut values =
                sparkv_device::cuda::Cuda::numbers(&stream, shape.elem_count()).map_err(failed)?;
            compute(View::of_cuda_mut(&stream, values.as_view_mut()).map_err(failed)?)?;
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
            Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
        }
        #[cfg(feature = "metal")]
        candle_core::Device::Metal(device) => {
            let count = shape.elem_count();
            let values = device.new_buffer(count, DType::F32, "")?;
            compute(View::of_metal(&values, true).part(0, count * size_of::<f32>()).map_err(failed)?)?;
            let storage = Storage::Metal(MetalStorage::new(values, device.clone(), count, DType::F32));
            Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
        }
        #[cfg(feature = "shim")]
        candle_core::Device::Cpu => {
            let mut values = vec![f32::NAN; shape.elem_count()];
            compute(View::of_host_mut(&mut values))?;
            Tensor::from_vec(values, shape, accelerator.tensors())
        }
        device => bail!("no device of ours is {device:?}"),
    }
}

/// Calls `compute` with `bytes` bytes of memory for results in passing, which may hold anything.
///
/// # Errors
/// As `compute`, or if there is not as much memory.
pub fn with_scratch(
    accelerator: &Accelerator,
    bytes: usize,
    compute: impl FnOnce(View<'_>) -> Result<()>,
) -> Result<()> {
    make(accelerator, bytes.div_ceil(size_of::<f32>()), compute).map(drop)
}

/// See [`change`].
struct Change<F>(F);

impl<F: Fn(View<'_>) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match storage {
            #[cfg(feature = "shim")]
            CpuStorage::F32(values) => (self.0)(part(View::of_host_mut(values), layout)?),
            _ => bail!("no device of ours has this on the CPU: {layout:?}"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let stream = storage.device.cuda_stream();
        let values = storage.as_cuda_slice_mut::<f32>()?.as_view_mut();
        (self.0)(part(View::of_cuda_mut(&stream, values).map_err(failed)?, layout)?)
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(&self, storage: &mut MetalStorage, layout: &Layout) -> Result<()> {
        match storage.dtype() {
            DType::F32 => (self.0)(part(View::of_metal(storage.buffer(), true), layout)?),
            dtype => bail!("no device of ours has {dtype:?}"),
        }
    }
}

/// The part of a tensor's memory that its values are in.
fn part<'a>(view: View<'a>, layout: &Layout) -> Result<View<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("rows must be contiguous, got {layout:?}")
    };
    view.part(start * size_of::<f32>(), (end - start) * size_of::<f32>()).map_err(failed)
}
