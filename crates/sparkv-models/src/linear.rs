//! The one type behind which all weight matrices are.
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::error::LoadError;
use crate::profile::{self, Section};
use crate::weights::{Stored, Weights};

/// Rows of a half-precision matrix that are widened at a time: small enough to stay in a core's cache.
const WIDENED_ROWS: usize = 64;

/// y = x W^T + b.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    /// (out), f32
    bias: Option<Tensor>,
}

/// A matrix (out, in).
#[derive(Debug)]
enum Weight {
    F32(Tensor),
    /// f16 or bf16.
    Half(Tensor),
    Quantized(Arc<QTensor>),
}

impl Linear {
    /// Reads `name`.weight, (out, in), and `name`.bias, (out), if there is to be one.
    pub(crate) fn load(
        weights: &Weights<'_>,
        name: &str,
        shape: [usize; 2],
        has_bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let mut linear = Self::new(weights.matrix(&format!("{name}.weight"), shape)?)?;
        if has_bias {
            let [out, _] = shape;
            linear.bias = Some(weights.vector(&format!("{name}.bias"), out)?);
        }
        Ok(linear)
    }

    /// Without bias.
    pub(crate) fn new(weight: Stored) -> Result<Self> {
        let weight = match weight {
            Stored::Dense(tensor) if tensor.dtype() == DType::F32 => Weight::F32(tensor),
            Stored::Dense(tensor) => Weight::Half(tensor),
            Stored::Quantized(blocks) => {
                // At its first use, Candle rearranges a matrix for its kernels, on one thread. Now, while
                // matrices are loaded in parallel, that costs less, and the first request none of it.
                let [_, columns] = *blocks.shape().dims() else {
                    candle_core::bail!("a weight matrix of the shape {:?}", blocks.shape());
                };
                let x = Tensor::zeros((2, columns), DType::F32, &blocks.device())?;
                x.apply_op1_no_bwd(blocks.as_ref())?;
                Weight::Quantized(blocks)
            }
        };
        Ok(Self { weight, bias: None })
    }

    /// x: (rows, in), f32, contiguous; gives (rows, out), f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.add_bias(profile::on(Section::Weights, || self.weight.times(x))?)
    }

    /// The same of each of some layers. Quantized ones share the rounding of x and a round of the threads.
    pub(crate) fn forward_all<const N: usize>(layers: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let products = profile::on(Section::Weights, || times_all(layers.map(|layer| &layer.weight), x))?;
        let results = layers.iter().zip(products).map(|(layer, y)| layer.add_bias(y));
        let results = results.collect::<Result<Vec<_>>>()?;
        results.try_into().map_err(|_| candle_core::Error::Msg("layers without a product".to_owned()))
    }

    fn add_bias(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Weight {
    /// x W^T
    fn times(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::F32(weight) => x.matmul(&weight.t()?),
            Self::Half(weight) => matmul_widened(x, weight),
            Self::Quantized(weight) => x.apply_op1_no_bwd(weight.as_ref()),
        }
    }
}

/// x W^T for each W.
fn times_all<const N: usize>(weights: [&Weight; N], x: &Tensor) -> Result<Vec<Tensor>> {
    let quantized: Vec<&QTensor> = weights
        .iter()
        .filter_map(|weight| match weight {
            Weight::Quantized(weight) => Some(weight.as_ref()),
            Weight::F32(_) | Weight::Half(_) => None,
        })
        .collect();
    if quantized.len() == N
        && let Some(products) = QTensor::gemv_fused_shared_lhs(&quantized, x)?
    {
        return Ok(products);
    }
    weights.iter().map(|weight| weight.times(x)).collect()
}

/// x W^T in f32 with W in f16 or bf16, a few rows of W widened at a time, so that no f32 copy of W is made.
fn matmul_widened(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let out = weight.dim(0)?;
    let blocks = (0..out).step_by(WIDENED_ROWS).collect::<Vec<_>>();
    let parts = blocks
        .into_par_iter()
        .map(|start| {
            let rows = weight.narrow(0, start, WIDENED_ROWS.min(out - start))?;
            x.matmul(&rows.to_dtype(DType::F32)?.t()?)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::MatrixFormat;
    use candle_core::Device;
    use candle_core::quantized::GgmlDType;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Largest absolute difference from the f32 product, relative to the largest absolute value of that.
    fn error_of(format: MatrixFormat, columns: usize) -> f32 {
        let (weight, x) = (matrix(150, columns), matrix(5, columns));
        let exact = x.matmul(&weight.t().unwrap()).unwrap();
        let linear = Linear::new(Stored::Dense(weight).convert(format).unwrap()).unwrap();
        let worst = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        worst((linear.forward(&x).unwrap() - &exact).unwrap()) / worst(exact)
    }

    const Q8_0: MatrixFormat = MatrixFormat::Quantized(GgmlDType::Q8_0);
    const Q4K: MatrixFormat = MatrixFormat::Quantized(GgmlDType::Q4K);

    #[test]
    fn every_format_is_as_exact_as_its_bits() {
        assert_eq!(error_of(MatrixFormat::Dense(DType::F32), 256), 0.0);
        assert_eq!(error_of(MatrixFormat::Auto, 256), error_of(Q8_0, 256));
        let expected = [
            (MatrixFormat::Dense(DType::F16), 1e-3),
            (MatrixFormat::Dense(DType::BF16), 4e-3),
            (Q8_0, 1e-2),
            (Q4K, 1e-1),
        ];
        for (format, bound) in expected {
            let error = error_of(format, 256);
            assert!(error > 0.0 && error < bound, "{format:?}: {error}");
        }
    }

    #[test]
    fn products_together_are_those_alone() {
        let x = matrix(3, 256);
        for format in [MatrixFormat::Dense(DType::F32), Q8_0, Q4K] {
            // A second matrix without whole tiles of 16 rows takes another way.
            for rows in [96, 50] {
                let layer =
                    |rows| Linear::new(Stored::Dense(matrix(rows, 256)).convert(format).unwrap()).unwrap();
                let (a, b) = (layer(32), layer(rows));
                let together = Linear::forward_all([&a, &b], &x).unwrap();
                for (layer, y) in [a, b].iter().zip(together) {
                    let alone = layer.forward(&x).unwrap().to_vec2::<f32>().unwrap();
                    assert_eq!(y.to_vec2::<f32>().unwrap(), alone);
                }
            }
        }
    }

    #[test]
    fn rows_that_do_not_fill_blocks_fall_back() {
        assert_eq!(error_of(Q4K, 64), error_of(Q8_0, 64));
        assert!(error_of(Q8_0, 64) > 0.0);
        assert_eq!(error_of(Q4K, 172), 0.0);
        assert_eq!(error_of(Q8_0, 172), 0.0);
    }
}
