//! Rotary position embedding in the half-split convention (`rotate_half`): channel i pairs with i + D/2.
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};

use crate::config::{DecoderConfig, RopeScaling};

/// Frequencies of the rotation. On the CPU, angles are computed for the positions at hand, once per chunk and step, so a
/// long context costs no table. Elsewhere, a table is kept on the device, so that only positions go there.
#[derive(Debug)]
pub(crate) struct Rope {
    /// (head_dim / 2) radians per position.
    frequencies: Vec<f32>,
    device: Device,
    /// The rotation at every position up to some; `None` where there is to be no table.
    table: Option<Mutex<Rotation>>,
}

/// Positions that a table begins with; it doubles when it is too short.
const TABLE: usize = 4096;

/// Sine and cosine of the rotation of some rows, on their device.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// (rows, head_dim / 2), f32
    pub(crate) sin: Tensor,
    /// (rows, head_dim / 2), f32
    pub(crate) cos: Tensor,
}

impl Rope {
    /// `keeps_table`: whether rotations are looked up in a table on the device.
    ///
    /// # Errors
    /// If the device has no memory for the table.
    pub(crate) fn new(config: &DecoderConfig, device: &Device, keeps_table: bool) -> Result<Self> {
        let dim = config.head_dim as f32;
        let mut frequencies: Vec<f32> =
            (0..config.head_dim).step_by(2).map(|i| 1.0 / config.rope.theta.powf(i as f32 / dim)).collect();
        match &config.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let original = *original_context as f32;
                for frequency in &mut frequencies {
                    // Periods that fit into the original context.
                    let turns = original * *frequency / (2.0 * std::f32::consts::PI);
                    let kept =
                        ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    *frequency = (1.0 - kept) * *frequency / factor + kept * *frequency;
                }
            }
            RopeScaling::Divisors(divisors) => {
                frequencies.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= divisor);
            }
        }
        let mut rope = Self { frequencies, device: device.clone(), table: None };
        if keeps_table {
            rope.table = Some(Mutex::new(rope.computed(0..TABLE)?));
        }
        Ok(rope)
    }

    /// The rotation of rows at these positions.
    pub(crate) fn at(&self, positions: impl Iterator<Item = usize>) -> Result<Rotation> {
        let Some(table) = &self.table else { return self.computed(positions) };
        let positions: Vec<usize> = positions.collect();
        let most = positions.iter().max().map_or(0, |most| most + 1);
        let positions = positions.into_iter().map(|position| position as u32).collect::<Vec<_>>();
        let count = positions.len();
        let positions = Tensor::from_vec(positions, count, &self.device)?;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let len = table.sin.dim(0)?;
        if most > len {
            *table = self.computed(0..most.max(2 * len))?;
        }
        Ok(Rotation {
            sin: table.sin.index_select(&positions, 0)?,
            cos: table.cos.index_select(&positions, 0)?,
        })
    }

    fn computed(&self, positions: impl Iterator<Item = usize>) -> Result<Rotation> {
        let half = self.frequencies.len();
        let angles = positions.flat_map(|position| self.frequencies.iter().map(move |f| position as f32 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let shape = (sin.len() / half, half);
        Ok(Rotation {
            sin: Tensor::from_vec(sin, shape, &self.device)?,
            cos: Tensor::from_vec(cos, shape, &self.device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;

    fn frequencies(rope: &str) -> Vec<f32> {
        let config = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 16, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8192, {rope}}}"#
        );
        Rope::new(&DecoderConfig::from_json(&config).unwrap(), &Device::Cpu, false).unwrap().frequencies
    }

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        assert_eq!(frequencies(r#""rope_theta": 10000.0"#), [1.0, 0.1, 0.01, 0.001]);
        let halved = frequencies(r#""rope_scaling": {"type": "linear", "factor": 2.0}"#);
        assert_eq!(halved, [0.5, 0.05, 0.005, 0.0005]);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = frequencies(r#""rope_theta": 500000.0"#);
        let scaled = frequencies(
            r#""rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#,
        );
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[3], plain[3] / 8.0);
        assert!(scaled[2] > plain[2] / 8.0 && scaled[2] < plain[2], "{} of {}", scaled[2], plain[2]);
    }

    #[test]
    fn both_spellings_of_rope_parameters_mean_the_same() {
        let old = frequencies(r#""rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 4.0}"#);
        let new =
            frequencies(r#""rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}"#);
        assert_eq!(old, new);
    }

    #[test]
    fn rotation_turns_each_pair_by_its_angle() {
        let config = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}"#;
        let rope = Rope::new(&DecoderConfig::from_json(config).unwrap(), &Device::Cpu, false).unwrap();
        let mut row = vec![0f32; 16];
        row[0] = 1.0; // head 0, pair 0, first half
        row[8 + 5] = 2.0; // head 1, pair 1, second half
        let x = Tensor::from_vec(row, (1, 16), &Device::Cpu).unwrap();
        crate::ops::RowOps::rotate(&crate::ops::cpu::Cpu, &x, &rope.at([3usize].into_iter()).unwrap())
            .unwrap();
        let y = x.to_vec2::<f32>().unwrap().remove(0);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(y[0], 3f32.cos()) && close(y[4], 3f32.sin()), "{y:?}");
        assert!(close(y[8 + 1], -2.0 * 0.3f32.sin()) && close(y[8 + 5], 2.0 * 0.3f32.cos()), "{y:?}");
    }
}
