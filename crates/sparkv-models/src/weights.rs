//! The formats weights are held in, and the sources they come from.
use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sparkv_kernels::matmul::WeightType;

use crate::device::Place;
use crate::error::LoadError;
use crate::source::files::FileBytes;

/// What `--weights` chooses: the format in which weight matrices are held in memory. Norms and biases are
/// always f32. An embedding table that is the output head as well is held once, as any matrix; one apart is
/// only looked up, and is held in f16 or bf16 if that is asked, else as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// `q8_0`, which a CPU runs fast at next to no loss; matrices that a GGUF file holds quantized stay as they are.
    #[default]
    Auto,
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight; activations stay f32.
    F16,
    /// 2 bytes a weight; activations stay f32.
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
#[derive(Debug)]
pub struct Stored<'a> {
    /// What it is stored in.
    pub weight_type: WeightType,
    /// Its dimensions, the last of which lies in one piece.
    pub shape: Vec<usize>,
    /// Its bytes, in the layout of GGUF.
    pub bytes: Cow<'a, [u8]>,
    /// The file they lie in, whose pages are given back as rows are read.
    pub(crate) file: Option<&'a FileBytes>,
}

/// Where a decoder's weights come from. Tensors go by Hugging Face's names, weight matrices are
/// (out, in), and q and k are ordered for the half-split RoPE.
pub trait TensorSource: Sync {
    /// Whether there is such a tensor.
    fn contains(&self, name: &str) -> bool;

    /// A tensor.
    ///
    /// # Errors
    /// If it is missing, has another shape, or is of a type that is not supported.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError>;
}

/// Whose products a decoder computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// Our own.
    Packed,
    /// Candle's.
    Plain,
}

impl Products {
    /// The fastest of a place.
    pub(crate) fn on(place: &Place) -> Self {
        if place.accelerator().is_none() { Self::Packed } else { Self::Plain }
    }
}

/// The tensors of a source, for a device, and the format that matrices are to have there.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) format: MatrixFormat,
    pub(crate) device: &'a Device,
    pub(crate) products: Products,
}

impl Weights<'_> {
    /// A tensor as it is stored.
    pub(crate) fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        self.source.tensor(name, shape)
    }

    /// A vector, (length), in f32.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        Ok(self.stored(name, &[length])?.values())
    }
}

/// What becomes of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixFormat {
    /// As stored if it is quantized, else as `Quantized(Q8_0)`.
    Auto,
    /// f32, f16 or bf16.
    Dense(WeightType),
    /// The first of this type and q8_0 whose blocks fill the matrix's rows, else f32.
    Quantized(WeightType),
}

impl MatrixFormat {
    /// What leaves a matrix of this type as it is.
    pub(crate) fn as_stored(stored: WeightType) -> Self {
        if stored.is_dense() { Self::Dense(stored) } else { Self::Auto }
    }

    /// The type of a matrix that is stored in `stored`, with rows of this length.
    pub(crate) fn of(self, stored: WeightType, columns: usize) -> WeightType {
        let fills = |of: &WeightType| columns.is_multiple_of(of.block_len());
        match self {
            Self::Auto if !stored.is_dense() => stored,
            Self::Auto => Self::Quantized(WeightType::Q8_0).of(stored, columns),
            Self::Dense(of) => of,
            Self::Quantized(of) => [of, WeightType::Q8_0].into_iter().find(fills).unwrap_or(WeightType::F32),
        }
    }
}

impl WeightFormat {
    pub(crate) fn for_matrices(self) -> MatrixFormat {
        match self {
            Self::Auto => MatrixFormat::Auto,
            Self::F32 => MatrixFormat::Dense(WeightType::F32),
            Self::F16 => MatrixFormat::Dense(WeightType::F16),
            Self::Bf16 => MatrixFormat::Dense(WeightType::Bf16),
            Self::Q8_0 => MatrixFormat::Quantized(WeightType::Q8_0),
            Self::Q4K => MatrixFormat::Quantized(WeightType::Q4K),
        }
    }
}

impl Stored<'_> {
    /// Rows and columns of a matrix.
    pub(crate) fn rows_and_columns(&self) -> candle_core::Result<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => candle_core::bail!("a weight matrix of the shape {:?}", self.shape),
        }
    }

    /// Values that lie in one piece.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Some rows of a matrix.
    pub(crate) fn rows(&self, range: Range<usize>) -> candle_core::Result<StoredRows<'_>> {
        let row = self.weight_type.row_bytes(self.columns());
        match self.bytes.get(range.start * row..range.end * row) {
            Some(bytes) => Ok(StoredRows { bytes, file: self.file }),
            None => candle_core::bail!("rows {range:?} of a matrix of the shape {:?}", self.shape),
        }
    }

    /// All values.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        self.weight_type.read(&self.bytes, &mut values);
        values
    }

    /// The tensor in f32.
    pub(crate) fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_vec(self.values(), self.shape.as_slice(), device)
    }
}

/// Bytes of some rows, whose pages are given back when they have been read: a table of embeddings is too large to be in
/// memory twice.
pub(crate) struct StoredRows<'a> {
    pub(crate) bytes: &'a [u8],
    file: Option<&'a FileBytes>,
}

impl Drop for StoredRows<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            file.give_back(self.bytes);
        }
    }
}

/// Candle's name of a type.
pub fn ggml_type(of: WeightType) -> GgmlDType {
    match of {
        WeightType::F32 => GgmlDType::F32,
        WeightType::F16 => GgmlDType::F16,
        WeightType::Bf16 => GgmlDType::BF16,
        WeightType::Q8_0 => GgmlDType::Q8_0,
        WeightType::Q4_0 => GgmlDType::Q4_0,
        WeightType::Q4_1 => GgmlDType::Q4_1,
        WeightType::Q5_0 => GgmlDType::Q5_0,
        WeightType::Q5_1 => GgmlDType::Q5_1,
        WeightType::Q2K => GgmlDType::Q2K,
        WeightType::Q3K => GgmlDType::Q3K,
        WeightType::Q4K => GgmlDType::Q4K,
        WeightType::Q5K => GgmlDType::Q5K,
        WeightType::Q6K => GgmlDType::Q6K,
    }
}

/// Our name of one of Candle's, if it is supported.
pub(crate) fn weight_type(of: GgmlDType) -> Option<WeightType> {
    WeightType::ALL.into_iter().find(|candidate| ggml_type(*candidate) == of)
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
