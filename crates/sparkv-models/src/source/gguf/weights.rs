//! The tensors of a GGUF file under Hugging Face's names and in its order of rows.
use std::borrow::Cow;

use candle_core::quantized::GgmlDType;

use super::GgufFile;
use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::source::files::FileBytes;
use crate::weights::{Stored, TensorSource, weight_type};

/// Types that are supported, for errors.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K";

/// The weights of a GGUF file.
#[derive(Debug)]
pub struct GgufWeights<'a> {
    file: &'a GgufFile,
    config: &'a DecoderConfig,
}

impl<'a> GgufWeights<'a> {
    /// The weights of `file`, whose configuration is `config`.
    pub fn new(file: &'a GgufFile, config: &'a DecoderConfig) -> Self {
        Self { file, config }
    }

    /// How many heads a tensor has whose rows are ordered for a rotation of neighbouring channels; `None` if it is
    /// none of those.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        let names = self.config.tensors;
        if !names.gguf_interleaves_heads {
            None
        } else if names.is_of(name, &names.q) {
            Some(self.config.query_heads)
        } else if names.is_of(name, &names.k) {
            Some(self.config.kv_heads)
        } else {
            None
        }
    }
}

impl TensorSource for GgufWeights<'_> {
    fn contains(&self, name: &str) -> bool {
        self.config.tensors.gguf(name).is_some_and(|name| self.file.tensor_info(&name).is_some())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        let file_name = self
            .config
            .tensors
            .gguf(name)
            .ok_or_else(|| LoadError::MissingTensor { name: name.to_owned() })?;
        let (dtype, bytes, file) = self.file.tensor_bytes(&file_name, shape)?;
        let Some(weight_type) = weight_type(dtype) else {
            return Err(LoadError::TensorType {
                name: file_name,
                dtype: type_name(dtype).to_owned(),
                supported: SUPPORTED,
            });
        };
        let (bytes, file) = match self.interleaved_heads(name) {
            Some(heads) => {
                let rows = half_split_rows(bytes, heads, self.config.head_dim);
                file.give_back(bytes);
                (Cow::Owned(rows), None)
            }
            None => (Cow::Borrowed(bytes), Some(file)),
        };
        Ok(Stored { weight_type, shape: shape.to_vec(), bytes, file })
    }
}

/// What GGUF calls a type.
fn type_name(dtype: GgmlDType) -> &'static str {
    match dtype {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}

impl GgufFile {
    /// The values of a tensor in f32.
    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        match self.tensor_bytes(name, shape)? {
            (GgmlDType::F32, bytes, _) => {
                let (values, _) = bytes.as_chunks();
                Ok(values.iter().copied().map(f32::from_le_bytes).collect())
            }
            (other, ..) => Err(LoadError::TensorType {
                name: name.to_owned(),
                dtype: type_name(other).to_owned(),
                supported: "F32",
            }),
        }
    }

    /// Type and bytes of a tensor, and the file that they are in.
    fn tensor_bytes(&self, name: &str, shape: &[usize]) -> Result<(GgmlDType, &[u8], &FileBytes), LoadError> {
        let missing = || LoadError::MissingTensor { name: name.to_owned() };
        let (part, info) = self.tensor_info(name).ok_or_else(missing)?;
        if info.shape.dims() != shape {
            return Err(LoadError::Shape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.dims().to_vec(),
            });
        }
        let dtype = info.ggml_dtype;
        let row = shape.last().copied().unwrap_or(0);
        if !row.is_multiple_of(dtype.block_size()) {
            let dtype = type_name(dtype);
            return Err(self.corrupt(format!("rows of `{name}` do not fill blocks of {dtype}")));
        }
        let outside = || LoadError::Corrupt {
            file: part.name.clone(),
            reason: format!("tensor `{name}` lies outside the file"),
        };
        let length = byte_length(dtype, shape).ok_or_else(outside)?;
        let start = part.content.tensor_data_offset.checked_add(info.offset).ok_or_else(outside)?;
        let start = usize::try_from(start).map_err(|_| outside())?;
        let end = start.checked_add(length).ok_or_else(outside)?;
        Ok((dtype, part.bytes.get(start..end).ok_or_else(outside)?, &part.bytes))
    }
}

fn byte_length(dtype: GgmlDType, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    (elements / dtype.block_size()).checked_mul(dtype.type_size())
}

/// Undoes llama.cpp's reordering of q and k, which interleaves the halves of each head (channel i next to
/// i + D/2). Whole rows move, so quantized blocks stay as they are.
fn half_split_rows(bytes: &[u8], heads: usize, head_dim: usize) -> Vec<u8> {
    let row = bytes.len() / (heads * head_dim);
    let mut rows = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((row * head_dim).max(1)) {
        for half in 0..2 {
            head.chunks_exact(row.max(1))
                .skip(half)
                .step_by(2)
                .for_each(|bytes| rows.extend_from_slice(bytes));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_go_back_to_two_halves() {
        // Two heads of four channels, rows of two bytes, as llama.cpp writes channels 0 2 1 3 (+ 4 a head).
        let written: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7].into_iter().flat_map(|row| [row, row]).collect();
        let expected: Vec<u8> = (0..8).flat_map(|row| [row, row]).collect();
        assert_eq!(half_split_rows(&written, 2, 4), expected);
    }
}
