//! Random weights, for benchmarks of a model's shape without the model.
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sparkv::splitmix::mix;

use crate::error::LoadError;
use crate::weights::{MatrixFormat, Stored, TensorSource};

/// Weights that differ; all tensors repeat them. A multiple of every block size, and of no power of two that a
/// row may have, so that the rows of a matrix differ; little enough to be made and quantized in no time.
const PATTERN: usize = 256 * 4093;

/// Makes tensors up: norms are 1, all else is uniform with a deviation of 0.02, as models are initialized.
pub(crate) struct Random {
    seed: u64,
    format: MatrixFormat,
    /// (PATTERN)
    weights: Vec<f32>,
    /// The pattern in the block types that were needed so far.
    quantized: Mutex<Vec<(GgmlDType, Arc<Vec<u8>>)>>,
}

impl Random {
    pub(crate) fn new(seed: u64, format: MatrixFormat) -> Self {
        let weights = (0..PATTERN as u64)
            .into_par_iter()
            .map(|index| {
                let bits = mix(mix(seed) ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let uniform = (bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                uniform * 0.02 * 12f32.sqrt()
            })
            .collect();
        Self { seed, format, weights, quantized: Mutex::new(Vec::new()) }
    }

    /// The block type of matrices with rows of this length, if they are to be quantized and can be.
    fn block_type(&self, row: usize) -> Option<GgmlDType> {
        let dtype = match self.format {
            MatrixFormat::Auto => GgmlDType::Q8_0,
            MatrixFormat::Quantized(dtype) => dtype,
            MatrixFormat::Dense(_) => return None,
        };
        [dtype, GgmlDType::Q8_0].into_iter().find(|dtype| row.is_multiple_of(dtype.block_size()))
    }

    /// The pattern in blocks of `dtype`, in bytes; quantized by `device` where it is not held yet.
    fn blocks(&self, dtype: GgmlDType, device: &Device) -> candle_core::Result<Arc<Vec<u8>>> {
        let mut quantized = self.quantized.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, blocks)) = quantized.iter().find(|(held, _)| *held == dtype) {
            return Ok(Arc::clone(blocks));
        }
        let weights = Tensor::from_slice(&self.weights, PATTERN, device)?;
        let blocks = Arc::new(QTensor::quantize(&weights, dtype)?.data()?.into_owned());
        quantized.push((dtype, Arc::clone(&blocks)));
        Ok(blocks)
    }
}

impl TensorSource for Random {
    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Stored, LoadError> {
        let elements: usize = shape.iter().product();
        if name.ends_with("norm.weight") {
            return Ok(Stored::Dense(Tensor::ones(shape, DType::F32, device)?));
        }
        // The name takes part, so tensors differ and the order of loading does not matter.
        let start = name.bytes().fold(self.seed, |state, byte| mix(state ^ u64::from(byte))) as usize;
        if let Some(dtype) = shape.last().and_then(|&row| self.block_type(row)) {
            let bytes =
                repeat(&self.blocks(dtype, device)?, dtype.type_size(), start, elements / dtype.block_size());
            let storage = QStorage::from_data(Cow::Owned(bytes), device, dtype)?;
            return Ok(Stored::Quantized(Arc::new(QTensor::new(storage, shape)?)));
        }
        let weights = repeat(&self.weights, 1, start, elements);
        Ok(Stored::Dense(Tensor::from_vec(weights, shape, device)?))
    }
}

/// `count` items of `size` values each: those of `pattern` from some item on, over and over.
fn repeat<T: Copy + Default + Send + Sync>(pattern: &[T], size: usize, start: usize, count: usize) -> Vec<T> {
    let start = start % (pattern.len() / size) * size;
    let (end, begin) = pattern.split_at(start);
    let mut values = vec![T::default(); count * size];
    values.par_chunks_mut(pattern.len()).for_each(|values| {
        let (first, second) = values.split_at_mut(begin.len().min(values.len()));
        first.copy_from_slice(&begin[..first.len()]);
        second.copy_from_slice(&end[..second.len()]);
    });
    values
}
