//! Random weights, for benchmarks of a model's shape without the model.
use candle_core::{Device, Tensor};

use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::LoadError;
use crate::progress::Progress;
use crate::weights::{Stored, TensorSource, WeightFormat};

/// A decoder of the shape in `config` with random weights, the same for the same `seed`.
///
/// # Errors
/// If the weights cannot be held in `format`.
pub fn load_dummy(
    config: &DecoderConfig,
    format: WeightFormat,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Decoder, LoadError> {
    Decoder::load(config, &Random { seed }, format, progress)
}

/// Makes tensors up: norms near 1, all else uniform with a deviation of 0.02, as models are initialized.
struct Random {
    seed: u64,
}

impl TensorSource for Random {
    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored, LoadError> {
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        // The name takes part, so the order of loading does not matter.
        let mut state = name.bytes().fold(self.seed, |state, byte| mix(state ^ u64::from(byte)));
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let uniform = (mix(state) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                mean + uniform * 0.02 * 12f32.sqrt()
            })
            .collect();
        Ok(Stored::Dense(Tensor::from_vec(values, shape, &Device::Cpu)?))
    }
}

/// SplitMix64's finalizer.
fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}
