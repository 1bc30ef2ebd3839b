//! Layers on any device: Candle's products.
use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use sparkv_kernels::matmul::WeightType;

use crate::error::LoadError;
use crate::weights::{MatrixFormat, Stored, ggml_type};

/// A layer as Candle multiplies it.
#[derive(Debug)]
pub(crate) struct Plain {
    weight: Weight,
    weight_type: WeightType,
    /// (out), f32
    bias: Option<Tensor>,
}

/// A matrix (out, in).
#[derive(Debug)]
enum Weight {
    /// f32, f16 or bf16.
    Dense(Tensor),
    Quantized(Box<QTensor>),
}

impl Plain {
    /// Of a matrix as it is stored, in `format`.
    pub(super) fn new(
        stored: &Stored<'_>,
        format: MatrixFormat,
        bias: Option<Vec<f32>>,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let (rows, columns) = stored.rows_and_columns()?;
        let target = format.of(stored.weight_type, columns);
        let weight = match dense_type(target) {
            Some(dtype) => Weight::Dense(stored.to_tensor(device)?.to_dtype(dtype)?),
            None if target == stored.weight_type => {
                let blocks = QStorage::from_data(Cow::Borrowed(&stored.bytes), device, ggml_type(target))?;
                Weight::Quantized(Box::new(QTensor::new(blocks, (rows, columns))?))
            }
            None => {
                Weight::Quantized(Box::new(QTensor::quantize(&stored.to_tensor(device)?, ggml_type(target))?))
            }
        };
        let bias = bias.map(|bias| Tensor::from_vec(bias, rows, device)).transpose()?;
        Ok(Self { weight, weight_type: target, bias })
    }

    /// See [`super::Linear::weight_type`].
    pub(super) fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// x W^T + b. On a GPU, `x` is rounded to what a matrix of 16 bits is in: to widen the matrix would take longer than all
    /// else.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Dense(weight) if x.device().is_cpu() => x.matmul(&weight.to_dtype(DType::F32)?.t()?)?,
            Weight::Dense(weight) => {
                x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?
            }
            Weight::Quantized(weight) => x.apply_op1_no_bwd(&**weight)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// See [`super::Linear::bytes`].
    pub(super) fn bytes(&self) -> usize {
        match &self.weight {
            Weight::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Weight::Quantized(weight) => weight.storage_size_in_bytes(),
        }
    }

    /// See [`super::Linear::rows`].
    pub(super) fn rows(&self, indices: &[u32]) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(table) => {
                table.index_select(&Tensor::new(indices, table.device())?, 0)?.to_dtype(DType::F32)
            }
            Weight::Quantized(table) => table.embedding(&Tensor::new(indices, &table.device())?),
        }
    }
}

/// Candle's name of a type without blocks.
fn dense_type(of: WeightType) -> Option<DType> {
    match of {
        WeightType::F32 => Some(DType::F32),
        WeightType::F16 => Some(DType::F16),
        WeightType::Bf16 => Some(DType::BF16),
        _ => None,
    }
}
