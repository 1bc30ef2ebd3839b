//! Weight matrices, and what a decoder computes with them.
//!
//! [`Linear`] is the one type behind which all of them are, as the device wants them: packed for our own products on the CPU
//! (`packed`), elsewhere for Candle's (`plain`), which are also what ours are tested against.
mod mlp;
mod packed;
mod plain;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};
use sparkv_kernels::matmul::WeightType;

use crate::error::LoadError;
use crate::ops::RowOps;
use crate::profile::{self, Section};
use crate::weights::{MatrixFormat, Products, Stored, Weights};
pub(crate) use mlp::Mlp;
use packed::Packed;
use plain::Plain;

/// y = x W^T + b.
#[derive(Debug)]
pub(crate) enum Linear {
    Packed(Packed),
    Plain(Plain),
}

/// RMSNorm, before products that share it.
#[derive(Debug)]
pub(crate) struct Norm {
    /// (row), f32
    pub(crate) weight: Tensor,
    pub(crate) eps: f32,
}

impl Linear {
    /// Reads `name`.weight, (out, in), and `name`.bias, (out), if there is to be one.
    pub(crate) fn load(
        weights: &Weights<'_>,
        name: &str,
        shape: [usize; 2],
        has_bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let matrix = weights.stored(&format!("{name}.weight"), &shape)?;
        let bias = match has_bias {
            true => Some(weights.vector(&format!("{name}.bias"), shape[0])?),
            false => None,
        };
        Self::new(weights, &matrix, weights.format, bias)
    }

    /// Of a matrix as it is stored, in `format`.
    pub(crate) fn new(
        weights: &Weights<'_>,
        matrix: &Stored<'_>,
        format: MatrixFormat,
        bias: Option<Vec<f32>>,
    ) -> std::result::Result<Self, LoadError> {
        Ok(match weights.products {
            Products::Packed => Self::Packed(Packed::new(matrix, format, bias)?),
            Products::Plain => Self::Plain(Plain::new(matrix, format, bias, weights.device)?),
        })
    }

    /// Rows of the matrix, (indices, in), f32.
    pub(crate) fn rows(&self, indices: &[u32]) -> Result<Tensor> {
        match self {
            Self::Packed(packed) => packed.rows(indices),
            Self::Plain(plain) => plain.rows(indices),
        }
    }

    /// How its weights are held.
    pub(crate) fn weight_type(&self) -> WeightType {
        match self {
            Self::Packed(packed) => packed.weight_type(),
            Self::Plain(plain) => plain.weight_type(),
        }
    }

    /// Bytes that the matrix takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.bytes(),
            Self::Plain(plain) => plain.bytes(),
        }
    }

    /// y of some layers for the same rows, each first normalized: (rows, out) of each, f32. `x`: (rows, in), f32, contiguous.
    pub(crate) fn of_normed<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        norm: &Norm,
        ops: &dyn RowOps,
    ) -> Result<[Tensor; N]> {
        profile::on(Section::Weights, || match all_packed(layers) {
            Some(packed) => packed::of_normed(packed, x, norm),
            None => {
                let x = norm.apply(x, ops)?;
                let products = layers.into_iter().map(|layer| layer.plain()?.forward(&x));
                let products = products.collect::<Result<Vec<_>>>()?;
                products.try_into().map_err(|_| candle_core::Error::msg("layers without a product"))
            }
        })
    }

    /// Adds y to `rows`, (rows, out), f32, contiguous.
    pub(crate) fn add_to(&self, rows: &Tensor, x: &Tensor, ops: &dyn RowOps) -> Result<()> {
        profile::on(Section::Weights, || match self {
            Self::Packed(packed) => packed.add_to(rows, x),
            Self::Plain(plain) => ops.add(rows, &plain.forward(x)?),
        })
    }

    fn plain(&self) -> Result<&Plain> {
        match self {
            Self::Plain(plain) => Ok(plain),
            Self::Packed(_) => candle_core::bail!("layers of two kinds"),
        }
    }
}

/// All of them, if all are packed.
fn all_packed<const N: usize>(layers: [&Linear; N]) -> Option<[&Packed; N]> {
    let packed = layers.into_iter().filter_map(|layer| match layer {
        Linear::Packed(packed) => Some(packed),
        Linear::Plain(_) => None,
    });
    packed.collect::<Vec<_>>().try_into().ok()
}

impl Norm {
    /// Rows, normalized.
    pub(crate) fn apply(&self, rows: &Tensor, ops: &dyn RowOps) -> Result<Tensor> {
        ops.rms_norm(rows, &self.weight, self.eps)
    }
}
