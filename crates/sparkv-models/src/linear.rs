//! The one type behind which all weight matrices are.
use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Result, Tensor};
use rayon::prelude::*;

use crate::error::LoadError;
use crate::spent::{self, Part};
use crate::weights::{MatrixFormat, Stored, TensorSource};

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
    Quantized(QMatMul),
}

impl Linear {
    /// Reads `name`.weight, (out, in), and `name`.bias, (out), if there is to be one.
    pub(crate) fn load(
        source: &dyn TensorSource,
        name: &str,
        shape: [usize; 2],
        has_bias: bool,
        format: MatrixFormat,
    ) -> std::result::Result<Self, LoadError> {
        let weight = source.tensor(&format!("{name}.weight"), &shape)?.convert(format)?;
        let mut linear = Self::new(weight);
        if has_bias {
            let [out, _] = shape;
            linear.bias = Some(source.tensor(&format!("{name}.bias"), &[out])?.to_f32()?);
        }
        Ok(linear)
    }

    /// Without bias.
    pub(crate) fn new(weight: Stored) -> Self {
        let weight = match weight {
            Stored::Dense(tensor) if tensor.dtype() == DType::F32 => Weight::F32(tensor),
            Stored::Dense(tensor) => Weight::Half(tensor),
            Stored::Quantized(blocks) => Weight::Quantized(QMatMul::QTensor(blocks)),
        };
        Self { weight, bias: None }
    }

    /// x: (rows, in), f32; gives (rows, out), f32.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = spent::on(Part::Weights, || match &self.weight {
            Weight::F32(weight) => x.matmul(&weight.t()?),
            Weight::Half(weight) => matmul_widened(x, weight),
            Weight::Quantized(weight) => weight.forward(x),
        })?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
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
        let linear = Linear::new(Stored::Dense(weight).convert(format).unwrap());
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
    fn rows_that_do_not_fill_blocks_fall_back() {
        assert_eq!(error_of(Q4K, 64), error_of(Q8_0, 64));
        assert!(error_of(Q8_0, 64) > 0.0);
        assert_eq!(error_of(Q4K, 172), 0.0);
        assert_eq!(error_of(Q8_0, 172), 0.0);
    }
}
