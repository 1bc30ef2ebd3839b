//! Drawing the next token.

/// How tokens are drawn from the model's logits.
///
/// The filters apply in the order temperature, `top_k`, `top_p`, `min_p`.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token (greedy).
    pub temperature: f32,
    /// Keeps the fewest likeliest tokens whose probabilities reach this; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Makes the draws repeatable; drawn by the engine if `None`.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// Greedy, no filter.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: None }
    }
}

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct InvalidParam {
    /// The parameter.
    pub param: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SamplingParams {
    /// Checks that every parameter is within its range.
    ///
    /// # Errors
    /// A temperature that is negative or not a number, or `top_p` or `min_p` outside [0, 1].
    pub fn validate(&self) -> Result<(), InvalidParam> {
        todo!()
    }
}
