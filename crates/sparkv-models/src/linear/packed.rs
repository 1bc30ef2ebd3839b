//! Layers on the CPU: Candle's tensors and the products of [`sparkv_kernels::matmul`].
use std::ops::Range;

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, bail};
use sparkv::parallel;
use sparkv_kernels::Isa;
use sparkv_kernels::matmul::{
    Affine, Gated, Input, Output, PackError, PackedMatrix, WeightType, add_gated as add_gated_rows, multiply,
};

use super::Norm;
use crate::error::LoadError;
use crate::ops::cpu::{values, values_mut};
use crate::weights::{MatrixFormat, Stored, StoredRows, ggml_type};

/// Rows of a table that a thread reads at a time.
const TABLE_ROWS: usize = 16;

/// A layer whose matrix is packed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// (out, in)
    matrix: PackedMatrix,
    /// (out)
    bias: Option<Vec<f32>>,
}

impl Packed {
    /// Of a matrix as it is stored, in `format`.
    pub(super) fn new(
        stored: &Stored<'_>,
        format: MatrixFormat,
        bias: Option<Vec<f32>>,
    ) -> std::result::Result<Self, LoadError> {
        let (rows, columns) = stored.rows_and_columns()?;
        let target = format.of(stored.weight_type, columns);
        let pack = |range: Range<usize>| {
            let rows = stored.rows(range)?;
            Ok(if target == stored.weight_type {
                Rows::Stored(rows)
            } else {
                Rows::Converted(convert(stored, &rows, target)?)
            })
        };
        let matrix = PackedMatrix::pack(target, rows, columns, pack).map_err(|error| match error {
            PackError::Source(error) => LoadError::Candle(error),
            other => LoadError::Candle(candle_core::Error::msg(other)),
        })?;
        Ok(Self { matrix, bias })
    }

    fn affine(&self) -> Affine<'_> {
        Affine { matrix: &self.matrix, bias: self.bias.as_deref() }
    }

    /// See [`super::Linear::weight_type`].
    pub(super) fn weight_type(&self) -> WeightType {
        self.matrix.weight_type()
    }

    /// See [`super::Linear::bytes`].
    pub(super) fn bytes(&self) -> usize {
        self.matrix.bytes()
    }

    /// See [`super::Linear::rows`].
    pub(super) fn rows(&self, indices: &[u32]) -> Result<Tensor> {
        let columns = self.matrix.columns();
        if let Some(index) = indices.iter().find(|index| **index as usize >= self.matrix.rows()) {
            bail!("row {index} of {}", self.matrix.rows());
        }
        let mut rows = vec![0f32; indices.len() * columns];
        let mut pieces: Vec<_> =
            rows.chunks_mut(TABLE_ROWS * columns).zip(indices.chunks(TABLE_ROWS)).collect();
        parallel::for_each(&mut pieces, |_, (rows, indices)| {
            rows.chunks_mut(columns)
                .zip(*indices)
                .for_each(|(row, index)| self.matrix.row(*index as usize, row));
        });
        drop(pieces);
        Tensor::from_vec(rows, (indices.len(), columns), &Device::Cpu)
    }

    /// See [`super::Linear::add_to`].
    pub(super) fn add_to(&self, rows: &Tensor, x: &Tensor) -> Result<()> {
        rows.inplace_op2(x, &AddProducts(self))
    }
}

/// Rows in the type that they are packed in.
enum Rows<'a> {
    Stored(StoredRows<'a>),
    Converted(Vec<u8>),
}

impl AsRef<[u8]> for Rows<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(rows) => rows.bytes,
            Self::Converted(bytes) => bytes,
        }
    }
}

/// Bytes of the same rows in another type.
fn convert(stored: &Stored<'_>, rows: &StoredRows<'_>, target: WeightType) -> Result<Vec<u8>> {
    let columns = stored.columns();
    let count = rows.bytes.len() / stored.weight_type.row_bytes(columns);
    let mut values = vec![0f32; count * columns];
    stored.weight_type.read(rows.bytes, &mut values);
    Ok(match target {
        WeightType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        WeightType::F16 => {
            values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
        }
        WeightType::Bf16 => {
            values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
        }
        quantized => {
            let tensor = Tensor::from_vec(values, (count, columns), &Device::Cpu)?;
            QTensor::quantize(&tensor, ggml_type(quantized))?.data()?.into_owned()
        }
    })
}

/// See [`super::Linear::of_normed`].
pub(super) fn of_normed<const N: usize>(
    layers: [&Packed; N],
    x: &Tensor,
    norm: &Norm,
) -> Result<[Tensor; N]> {
    let rows = x.dim(0)?;
    let mut results = layers.map(|layer| vec![0f32; rows * layer.matrix.rows()]);
    with_values(x, |x| {
        with_values(&norm.weight, |weight| {
            let mut outputs: Vec<_> = layers
                .into_iter()
                .zip(&mut results)
                .map(|(layer, results)| Output { layer: layer.affine(), results, add: false })
                .collect();
            let input = Input { values: x, norm: Some((weight, norm.eps)) };
            multiply(Isa::best(), input, &mut outputs).map_err(candle_core::Error::msg)
        })
    })?;
    let tensors = results
        .into_iter()
        .zip(layers)
        .map(|(results, layer)| Tensor::from_vec(results, (rows, layer.matrix.rows()), &Device::Cpu))
        .collect::<Result<Vec<_>>>()?;
    tensors.try_into().map_err(|_| candle_core::Error::msg("layers without a product"))
}

/// See [`super::Mlp::add_to`]; layers: gate, up, down.
pub(super) fn add_gated(hidden: &Tensor, norm: &Norm, layers: [&Packed; 3]) -> Result<()> {
    hidden.inplace_op1(&AddGated { norm, layers })
}

/// Calls `read` with the values of a tensor.
fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(values(storage, layout)?),
        _ => bail!("products of the CPU for {:?}", tensor.device()),
    }
}

/// Adds products with rows to other rows.
struct AddProducts<'a>(&'a Packed);

impl InplaceOp2 for AddProducts<'_> {
    fn name(&self) -> &'static str {
        "add-products"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let output = Output { layer: self.0.affine(), results: values_mut(rows, layout)?, add: true };
        let input = Input { values: values(x, x_layout)?, norm: None };
        multiply(Isa::best(), input, &mut [output]).map_err(candle_core::Error::msg)
    }
}

/// Adds to rows what a feed-forward block makes of them.
struct AddGated<'a> {
    norm: &'a Norm,
    /// Gate, up, down.
    layers: [&'a Packed; 3],
}

impl InplaceOp1 for AddGated<'_> {
    fn name(&self) -> &'static str {
        "add-gated"
    }

    fn cpu_fwd(&self, rows: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let [gate, up, down] = self.layers.map(Packed::affine);
        let rows = values_mut(rows, layout)?;
        with_values(&self.norm.weight, |weight| {
            let norm = Some((weight, self.norm.eps));
            add_gated_rows(Isa::best(), rows, norm, &Gated { gate, up, down })
                .map_err(candle_core::Error::msg)
        })
    }
}
