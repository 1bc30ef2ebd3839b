//! Rotary position embedding, as a model's configuration describes it.
use super::error::{ConfigError, positive, within};

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Low frequencies divided, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Positions before the stretch.
        original_context: usize,
    },
    /// A divisor for each of the head_dim / 2 frequencies, as GGUF files store it.
    Divisors(Vec<f32>),
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Checks what is later divided by, for heads of `head_dim` channels.
    pub(super) fn check(&self, head_dim: usize) -> Result<(), ConfigError> {
        positive("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low_freq_factor)?;
                within("rope_scaling.original_max_position_embeddings", *original_context, 1 << 28)?;
                if high_freq_factor.is_finite() && high_freq_factor > low_freq_factor {
                    Ok(())
                } else {
                    Err(ConfigError::invalid(
                        "rope_scaling.high_freq_factor",
                        format!("must be above low_freq_factor, got {high_freq_factor}"),
                    ))
                }
            }
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != head_dim / 2 {
                    return Err(ConfigError::invalid(
                        "rope_freqs",
                        format!("has {} values, head_dim needs {}", divisors.len(), head_dim / 2),
                    ));
                }
                divisors.iter().try_for_each(|&divisor| positive("rope_freqs", divisor))
            }
        }
    }
}
