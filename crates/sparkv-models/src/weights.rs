//! The formats weights are held in, and the sources they come from.
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::LoadError;

/// What `--weights` chooses: the format in which weight matrices are held in memory. Norms and biases are
/// always f32. An embedding table that is the output head as well is held once, as any matrix; one apart is
/// only looked up, and is held in f16 or bf16 if that is asked, else as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// `q8_0`, which is what a CPU runs fastest at next to no loss; matrices that a GGUF file holds quantized
    /// stay as they are, but for those in Q4_1, Q5_0 and Q5_1, for which there is no fast product.
    #[default]
    Auto,
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight; widened to f32 for computing.
    F16,
    /// 2 bytes a weight; widened to f32 for computing.
    Bf16,
    /// 8.5 bits a weight, in blocks of 32; f32 for matrices whose rows are no multiple of 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight, in blocks of 256; q8_0 for matrices whose rows are no multiple of 256.
    #[serde(rename = "q4k")]
    Q4K,
}

impl std::str::FromStr for WeightFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "q8_0" => Ok(Self::Q8_0),
            "q4k" => Ok(Self::Q4K),
            _ => Err(format!("unknown weight format `{name}`; there are auto, f32, f16, bf16, q8_0 and q4k")),
        }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
        })
    }
}

/// A tensor as its file stores it.
#[derive(Debug, Clone)]
pub enum Stored {
    /// f32, f16 or bf16.
    Dense(Tensor),
    /// Blocks of one of GGUF's quantized types.
    Quantized(Arc<QTensor>),
}

/// Where a decoder's weights come from. Tensors go by Hugging Face's names, weight matrices are
/// (out, in), and q and k are ordered for the half-split RoPE.
pub trait TensorSource: Sync {
    /// Whether there is such a tensor.
    fn contains(&self, name: &str) -> bool;

    /// Reads a tensor into the memory of `device`.
    ///
    /// # Errors
    /// If it is missing, has another shape, or is of a type that is not supported.
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Stored, LoadError>;
}

/// The tensors of a source, on a device and in the format that matrices are to have there.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) format: MatrixFormat,
    pub(crate) device: &'a Device,
}

impl Weights<'_> {
    /// A tensor as it is stored.
    pub(crate) fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored, LoadError> {
        self.source.tensor(name, shape, self.device)
    }

    /// A matrix, (out, in), in the format that is asked for.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Stored, LoadError> {
        Ok(self.stored(name, &shape)?.convert(self.format)?)
    }

    /// A vector, (length), in f32.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Tensor, LoadError> {
        Ok(self.stored(name, &[length])?.to_f32()?)
    }
}

/// What becomes of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixFormat {
    /// As stored if it is quantized in a type that Candle multiplies fast, else as `Quantized(Q8_0)`.
    Auto,
    /// f32, f16 or bf16.
    Dense(DType),
    /// The first of this type and q8_0 whose blocks fill the matrix's rows, else f32.
    Quantized(GgmlDType),
}

impl WeightFormat {
    pub(crate) fn for_matrices(self) -> MatrixFormat {
        match self {
            Self::Auto => MatrixFormat::Auto,
            Self::F32 => MatrixFormat::Dense(DType::F32),
            Self::F16 => MatrixFormat::Dense(DType::F16),
            Self::Bf16 => MatrixFormat::Dense(DType::BF16),
            Self::Q8_0 => MatrixFormat::Quantized(GgmlDType::Q8_0),
            Self::Q4K => MatrixFormat::Quantized(GgmlDType::Q4K),
        }
    }
}

impl Stored {
    /// The tensor in f32.
    pub(crate) fn to_f32(&self) -> candle_core::Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.to_dtype(DType::F32),
            Self::Quantized(blocks) => blocks.dequantize(&blocks.device()),
        }
    }

    /// The same matrix in `format`.
    pub(crate) fn convert(self, format: MatrixFormat) -> candle_core::Result<Self> {
        match (format, self) {
            (MatrixFormat::Auto, Self::Quantized(blocks)) if !is_slow(blocks.dtype()) => {
                Ok(Self::Quantized(blocks))
            }
            (MatrixFormat::Auto, stored) => quantize(stored.to_f32()?, GgmlDType::Q8_0),
            (MatrixFormat::Dense(dtype), Self::Dense(tensor)) => Ok(Self::Dense(tensor.to_dtype(dtype)?)),
            (MatrixFormat::Dense(dtype), stored) => Ok(Self::Dense(stored.to_f32()?.to_dtype(dtype)?)),
            (MatrixFormat::Quantized(dtype), Self::Quantized(blocks)) if blocks.dtype() == dtype => {
                Ok(Self::Quantized(blocks))
            }
            (MatrixFormat::Quantized(dtype), stored) => quantize(stored.to_f32()?, dtype),
        }
    }
}

/// Whether Candle multiplies matrices of this type one value at a time (and in debug builds not at all where a row has an
/// odd number of blocks).
fn is_slow(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1)
}

fn quantize(tensor: Tensor, dtype: GgmlDType) -> candle_core::Result<Stored> {
    let row = tensor.dim(candle_core::D::Minus1)?;
    let mut choices = [dtype, GgmlDType::Q8_0].into_iter();
    match choices.find(|dtype| row.is_multiple_of(dtype.block_size())) {
        Some(dtype) => Ok(Stored::Quantized(Arc::new(QTensor::quantize(&tensor, dtype)?))),
        None => Ok(Stored::Dense(tensor)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_formats_are_the_same_everywhere() {
        for name in ["auto", "f32", "f16", "bf16", "q8_0", "q4k"] {
            let format: WeightFormat = name.parse().unwrap();
            assert_eq!(format.to_string(), name);
            assert_eq!(serde_json::to_value(format).unwrap(), name);
        }
        assert!("q4_0".parse::<WeightFormat>().unwrap_err().contains("q4k"));
    }
}
