//! What the model thinks of tokens.
use super::likeliest::{by_rank, finite, likeliest_few};

/// Log probabilities at one position, natural logarithms, of the model's own distribution: temperature 1, no
/// filter, nothing adjusted.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// That of the token at the position.
    pub logprob: f32,
    /// The likeliest tokens and theirs, likeliest first; of equals the smaller id.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Those of token `id` and of the `top` likeliest after these logits; `None` if no logit is a finite number.
    pub fn of(logits: &[f32], id: u32, top: usize) -> Option<Self> {
        finite(logits).next()?;
        Some(RawScores::new(logits).of(id, top))
    }
}

/// Logits and the logarithm of what their exponentials sum to.
#[derive(Debug)]
struct RawScores<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> RawScores<'a> {
    fn new(logits: &'a [f32]) -> Self {
        let max = finite(logits).map(|(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        let max = f64::from(max);
        let sum: f64 = finite(logits).map(|(_, logit)| (f64::from(logit) - max).exp()).sum();
        Self { logits, log_sum: max + sum.ln() }
    }

    /// The log probability of token `id`, and of the `top` likeliest.
    fn of(&self, id: u32, top: usize) -> TokenLogprobs {
        let logprob = |logit: f32| (f64::from(logit) - self.log_sum) as f32;
        let drawn = self.logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let top = if top == 0 { Vec::new() } else { sorted_few(self.logits, top) };
        TokenLogprobs {
            logprob: logprob(drawn),
            top: top.into_iter().map(|(id, logit)| (id, logprob(logit))).collect(),
        }
    }
}

/// The `count` likeliest, sorted even where there are no more than that.
fn sorted_few(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut few = likeliest_few(finite(logits), count);
    few.sort_by(by_rank);
    few
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_log_of_the_softmax() {
        let logits = [1.0, 3.0, f32::NAN, 2.0, 3.0, f32::NEG_INFINITY];
        let sum: f64 = [1.0, 3.0, 2.0, 3.0].iter().map(|l: &f64| l.exp()).sum();
        let expected = |logit: f64| (logit - sum.ln()) as f32;
        let of = RawScores::new(&logits).of(3, 3);
        assert_eq!(of.logprob, expected(2.0));
        assert_eq!(of.top, [(1, expected(3.0)), (4, expected(3.0)), (3, expected(2.0))]);
        let all = RawScores::new(&logits).of(0, 20);
        assert_eq!(all.top.len(), 4);
        let sum: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert!(RawScores::new(&logits).of(0, 0).top.is_empty());
        assert_eq!(TokenLogprobs::of(&[f32::NAN, f32::NEG_INFINITY], 0, 1), None);
    }
}
