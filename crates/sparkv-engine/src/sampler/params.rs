//! How tokens are drawn.
use std::collections::BTreeMap;

use super::repetition::RepetitionDetection;

/// Alternatives that may be asked for beside each token.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// How tokens are drawn from the model's logits.
///
/// First the logits are adjusted: `logit_bias`, then `repetition_penalty`, `frequency_penalty` and
/// `presence_penalty`. Then the filters apply in this order: `temperature`, `top_k`, `top_p`, `min_p`, each to the
/// distribution that the ones before it left.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token (greedy).
    pub temperature: f32,
    /// Keeps the fewest likeliest tokens whose probabilities reach this, at least one; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Is taken from the logit of every token that was generated before; 0 is off.
    pub presence_penalty: f32,
    /// Is taken from a token's logit once for each time it was generated before; 0 is off.
    pub frequency_penalty: f32,
    /// Divides the logit of every token of the prompt and the answer so far, or multiplies it if it is negative
    /// (Keskar et al. 2019, arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// Is added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Tokens to be generated before the answer may end by an end-of-sequence token, a stop token or a stop string.
    pub min_tokens: usize,
    /// End the answer once it repeats itself; never if `None`.
    pub repetition_detection: Option<RepetitionDetection>,
    /// Report the log probability of each token, and of this many of the likeliest; nothing if `None`.
    pub logprobs: Option<usize>,
    /// Makes the draws repeatable; drawn by the engine if `None`.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// Greedy, no filter, nothing adjusted, nothing reported.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            min_tokens: 0,
            repetition_detection: None,
            logprobs: None,
            seed: None,
        }
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
    /// The first that is not: a temperature that is negative or not a number; `top_p` or `min_p` outside [0, 1]; a
    /// presence or frequency penalty outside [-2, 2]; a repetition penalty that is not a positive number; a bias
    /// outside [-100, 100]; repetition that cannot be looked for; more alternatives than [`MAX_TOP_LOGPROBS`].
    pub fn validate(&self) -> Result<(), InvalidParam> {
        let check = |right: bool, param, wanted: &str, got: f32| {
            let message = || format!("must be {wanted}, got {got}");
            if right { Ok(()) } else { Err(InvalidParam { param, message: message() }) }
        };
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", "a number of at least 0", t)?;
        for (param, share) in [("top_p", self.top_p), ("min_p", self.min_p)] {
            check((0.0..=1.0).contains(&share), param, "between 0 and 1", share)?;
        }
        let penalties =
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)];
        for (param, penalty) in penalties {
            check((-2.0..=2.0).contains(&penalty), param, "between -2 and 2", penalty)?;
        }
        let r = self.repetition_penalty;
        check(r.is_finite() && r > 0.0, "repetition_penalty", "a number above 0", r)?;
        for &bias in self.logit_bias.values() {
            check((-100.0..=100.0).contains(&bias), "logit_bias", "between -100 and 100", bias)?;
        }
        if let Some(detection) = &self.repetition_detection {
            let invalid = |message| InvalidParam { param: "repetition_detection", message };
            detection.validate().map_err(invalid)?;
        }
        check_alternatives("top_logprobs", self.logprobs)
    }
}

/// Checks how many alternatives `param` asks for.
///
/// # Errors
/// If they are more than [`MAX_TOP_LOGPROBS`].
pub(crate) fn check_alternatives(param: &'static str, top: Option<usize>) -> Result<(), InvalidParam> {
    match top {
        Some(top) if top > MAX_TOP_LOGPROBS => {
            Err(InvalidParam { param, message: format!("must be at most {MAX_TOP_LOGPROBS}, got {top}") })
        }
        _ => Ok(()),
    }
}
