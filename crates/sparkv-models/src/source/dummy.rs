//! Random weights, for benchmarks of a model's shape without the model.
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use sparkv::parallel;
use sparkv::splitmix::mix;
use sparkv_kernels::matmul::WeightType;

use crate::error::LoadError;
use crate::weights::{MatrixFormat, Stored, TensorSource, ggml_type};

/// Weights that differ; all tensors repeat them. A multiple of every block size, and of no power of two that a
/// row may have, so that the rows of a matrix differ; little enough to be made and quantized in no time.
const PATTERN: usize = 256 * 4093;

/// Values that a thread makes or copies at a time.
const PIECE: usize = 1 << 16;

/// Makes tensors up: norms are 1, all else is uniform with a deviation of 0.02, as models are initialized.
pub(crate) struct Random {
    seed: u64,
    format: MatrixFormat,
    /// (PATTERN)
    weights: Vec<f32>,
    /// The pattern in the types that were needed so far, in bytes.
    patterns: Mutex<Vec<(WeightType, Arc<Vec<u8>>)>>,
}

impl Random {
    pub(crate) fn new(seed: u64, format: MatrixFormat) -> Self {
        let mut weights = vec![0f32; PATTERN];
        let mut pieces: Vec<_> = weights.chunks_mut(PIECE).collect();
        parallel::for_each(&mut pieces, |piece, weights| {
            for (index, weight) in weights.iter_mut().enumerate() {
                let index = (piece * PIECE + index) as u64;
                let bits = mix(mix(seed) ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let uniform = (bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                *weight = uniform * 0.02 * 12f32.sqrt();
            }
        });
        Self { seed, format, weights, patterns: Mutex::new(Vec::new()) }
    }

    /// The pattern in `weight_type`, in bytes; made where it is not held yet.
    fn pattern(&self, weight_type: WeightType) -> candle_core::Result<Arc<Vec<u8>>> {
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pattern)) = patterns.iter().find(|(held, _)| *held == weight_type) {
            return Ok(Arc::clone(pattern));
        }
        let weights = Tensor::from_slice(&self.weights, PATTERN, &Device::Cpu)?;
        let pattern = Arc::new(QTensor::quantize(&weights, ggml_type(weight_type))?.data()?.into_owned());
        patterns.push((weight_type, Arc::clone(&pattern)));
        Ok(pattern)
    }
}

impl TensorSource for Random {
    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        let elements: usize = shape.iter().product();
        let stored = |weight_type, bytes| Stored {
            weight_type,
            shape: shape.to_vec(),
            bytes: Cow::Owned(bytes),
            file: None,
        };
        if name.ends_with("norm.weight") {
            return Ok(stored(WeightType::F32, 1f32.to_le_bytes().repeat(elements)));
        }
        // The name takes part, so tensors differ and the order of loading does not matter.
        let start = name.bytes().fold(self.seed, |state, byte| mix(state ^ u64::from(byte))) as usize;
        let columns = shape.last().copied().unwrap_or(1);
        let weight_type =
            if shape.len() == 2 { self.format.of(WeightType::F32, columns) } else { WeightType::F32 };
        let (size, count) = (weight_type.block_bytes(), elements / weight_type.block_len());
        Ok(stored(weight_type, repeat(&self.pattern(weight_type)?, size, start, count)))
    }
}

/// `count` items of `size` bytes each: those of `pattern` from some item on, over and over.
fn repeat(pattern: &[u8], size: usize, start: usize, count: usize) -> Vec<u8> {
    let start = start % (pattern.len() / size) * size;
    let (end, begin) = pattern.split_at(start);
    let mut values = vec![0; count * size];
    let mut pieces: Vec<_> = values.chunks_mut(pattern.len()).collect();
    parallel::for_each(&mut pieces, |_, values| {
        let (first, second) = values.split_at_mut(begin.len().min(values.len()));
        first.copy_from_slice(&begin[..first.len()]);
        second.copy_from_slice(&end[..second.len()]);
    });
    values
}
