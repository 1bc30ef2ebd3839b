//! What a request, and the tokens of its sequence so far, change about the model's logits.
use std::{borrow::Cow, collections::HashMap};

use super::params::SamplingParams;

/// Biases and penalties of one sequence.
#[derive(Debug, Clone)]
pub(super) struct Adjustments {
    bias: Vec<(u32, f32)>,
    presence: f32,
    frequency: f32,
    repetition: f32,
    /// How often a token was drawn; 0 for tokens of the prompt alone. Kept only where a penalty needs it.
    seen: HashMap<u32, u32>,
    /// Tokens drawn.
    drawn: usize,
}

impl Adjustments {
    pub(super) fn new(params: &SamplingParams) -> Self {
        Self {
            bias: params.logit_bias.iter().map(|(&id, &bias)| (id, bias)).collect(),
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            repetition: params.repetition_penalty,
            seen: HashMap::new(),
            drawn: 0,
        }
    }

    /// Whether any logit may be adjusted.
    pub(super) fn are_any(&self) -> bool {
        !self.bias.is_empty() || self.has_penalties()
    }

    fn has_penalties(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    /// Tokens drawn so far.
    pub(super) fn drawn(&self) -> usize {
        self.drawn
    }

    pub(super) fn read_prompt(&mut self, prompt: &[u32]) {
        if self.repetition != 1.0 {
            for &id in prompt {
                self.seen.entry(id).or_insert(0);
            }
        }
    }

    /// Takes note of a token that was drawn.
    pub(super) fn note(&mut self, id: u32) {
        self.drawn += 1;
        if self.has_penalties() {
            *self.seen.entry(id).or_insert(0) += 1;
        }
    }

    /// Adjusts logits; leaves them borrowed where nothing is to be changed. What is no finite number stays so.
    pub(super) fn apply(&self, logits: &mut Cow<'_, [f32]>) {
        if self.bias.is_empty() && self.seen.is_empty() {
            return;
        }
        let logits = logits.to_mut();
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for (&id, &times) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            if times > 0 {
                *logit -= self.frequency * times as f32 + self.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(params: SamplingParams, prompt: &[u32], drawn: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut adjustments = Adjustments::new(&params);
        adjustments.read_prompt(prompt);
        drawn.iter().for_each(|&id| adjustments.note(id));
        assert_eq!(adjustments.drawn(), drawn.len());
        let mut logits = Cow::Borrowed(logits);
        adjustments.apply(&mut logits);
        logits.into_owned()
    }

    #[test]
    fn penalties_are_those_of_the_api() {
        let logits = [1.0, -1.0, 2.0, 0.5];
        // logit - count * frequency - (count > 0) * presence, of generated tokens only.
        let params =
            SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.25, ..SamplingParams::default() };
        assert_eq!(applied(params, &[3, 3], &[0, 2, 2], &logits), [0.25, -1.0, 1.0, 0.5]);
        // Towards less likely on both sides of 0, of the prompt's tokens too, once each.
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        assert_eq!(applied(params, &[1, 1], &[2, 2], &logits), [1.0, -2.0, 1.0, 0.5]);
        let params = SamplingParams { logit_bias: [(1, 3.0), (9, 1.0)].into(), ..SamplingParams::default() };
        assert_eq!(applied(params, &[1], &[0], &logits), [1.0, 2.0, 2.0, 0.5]);
        assert_eq!(applied(SamplingParams::default(), &[1], &[0], &logits), logits);
    }
}
