//! Drawing the next token.
//!
//! The random number behind a draw depends on the seed and on the position alone, so a request draws the same
//! tokens whatever else runs, in any batch.
use std::cmp::Ordering;

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// How tokens are drawn from the model's logits.
///
/// The filters apply in this order: `temperature`, `top_k`, `top_p`, `min_p`, each to the distribution that
/// the ones before it left.
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
        let Self { temperature, top_p, top_k: _, min_p, seed: _ } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let message = format!("must be a number of at least 0, got {temperature}");
            return Err(InvalidParam { param: "temperature", message });
        }
        for (param, share) in [("top_p", top_p), ("min_p", min_p)] {
            if !(0.0..=1.0).contains(&share) {
                let message = format!("must be between 0 and 1, got {share}");
                return Err(InvalidParam { param, message });
            }
        }
        Ok(())
    }
}

/// Draws one sequence's tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    // Valid: checked by `new`.
    params: SamplingParams,
    seed: u64,
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    /// Its probability relative to the likeliest token's, in [0, 1].
    weight: f64,
}

impl Candidate {
    /// Likelier first; of equals the smaller id.
    fn by_rank(a: &Self, b: &Self) -> Ordering {
        b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
    }
}

impl Sampler {
    /// A sampler that draws by `params`, with a seed of its own if they have none.
    ///
    /// # Errors
    /// As [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self, InvalidParam> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(rand::random);
        Ok(Self { params, seed })
    }

    /// Draws the token at `position` (tokens before it, the prompt's included) from its logits (`vocab_size`).
    /// Logits that are no finite number are never drawn; `None` if there is no other.
    pub fn sample(&self, logits: &[f32], position: usize) -> Option<u32> {
        let (best, max) = likeliest(logits)?;
        if self.params.temperature == 0.0 || self.params.top_k == 1 {
            return Some(best);
        }
        let kept = self.filter(weigh(logits, max, self.params.temperature));
        Some(draw(&kept, self.uniform(position)).unwrap_or(best))
    }

    /// Applies top_k, top_p and min_p. Never leaves nothing: the likeliest token passes each of them.
    fn filter(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let SamplingParams { top_k, top_p, min_p, .. } = self.params;
        if (1..candidates.len()).contains(&top_k) {
            candidates.select_nth_unstable_by(top_k, Candidate::by_rank);
            candidates.truncate(top_k);
            // The order decides which random number draws which token, so it must not be the selection's.
            candidates.sort_unstable_by(Candidate::by_rank);
        }
        if top_p < 1.0 {
            candidates.sort_unstable_by(Candidate::by_rank);
            let wanted = f64::from(top_p) * total(&candidates);
            let mut reached = 0.0;
            let enough = candidates.iter().position(|candidate| {
                reached += candidate.weight;
                reached >= wanted
            });
            candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
        }
        // The likeliest token's weight is 1, so weights are the shares that min_p speaks of.
        candidates.retain(|candidate| candidate.weight >= f64::from(min_p));
        candidates
    }

    /// A number in [0, 1), drawn from the position's own stream.
    fn uniform(&self, position: usize) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(position as u64);
        rng.random()
    }
}

/// The first of the largest finite logits, and its value.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    finite(logits).reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn finite(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite())
}

/// The softmax's terms, scaled so that the largest logit's is 1. f64: large vocabularies are summed.
fn weigh(logits: &[f32], max: f32, temperature: f32) -> Vec<Candidate> {
    let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / f64::from(temperature)).exp();
    finite(logits).map(|(id, logit)| Candidate { id, weight: weight(logit) }).collect()
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The candidate at `uniform` of the cumulative distribution; `None` only if rounding leaves none.
fn draw(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let mut left = uniform * total(candidates);
    candidates
        .iter()
        .find(|candidate| {
            left -= candidate.weight;
            left < 0.0
        })
        .map(|candidate| candidate.id)
}
