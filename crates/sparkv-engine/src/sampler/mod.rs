//! Drawing the next token.
//!
//! The random number behind a draw depends on the seed and on the position alone, so a request draws the same
//! tokens whatever else runs, in any batch.
mod adjust;
mod likeliest;
mod logprobs;
mod params;
mod repetition;

use std::{borrow::Cow, cmp::Ordering};

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sparkv_models::Logits;

use adjust::Adjustments;
use likeliest::{finite, likeliest, likeliest_few};
use repetition::Detector;

pub use logprobs::TokenLogprobs;
pub(crate) use params::check_alternatives;
pub use params::{InvalidParam, MAX_TOP_LOGPROBS, SamplingParams};
pub use repetition::RepetitionDetection;

/// Draws one sequence's tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    // Valid: checked by `new`.
    params: SamplingParams,
    seed: u64,
    adjustments: Adjustments,
    repetition: Option<Detector>,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// What the model thought of it, if [`SamplingParams::logprobs`] asks for that.
    pub logprobs: Option<TokenLogprobs>,
}

/// Candidates that are sorted at first; more than make up nearly every nucleus.
const SORTED_FIRST: usize = 512;

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
        let adjustments = Adjustments::new(&params);
        let repetition = params.repetition_detection.map(Detector::new);
        Ok(Self { params, seed, adjustments, repetition })
    }

    /// Takes note of the prompt, whose tokens `repetition_penalty` counts among those that were said.
    pub fn read_prompt(&mut self, prompt: &[u32]) {
        self.adjustments.read_prompt(prompt);
    }

    /// Whether an end-of-sequence token may be drawn, as far as [`SamplingParams::min_tokens`] goes.
    pub fn may_end(&self) -> bool {
        self.adjustments.drawn() >= self.params.min_tokens
    }

    /// Whether what was drawn repeats itself as [`SamplingParams::repetition_detection`] has it, so that it may end.
    pub fn repeats(&self) -> bool {
        self.may_end() && self.repetition.as_ref().is_some_and(Detector::found)
    }

    /// How many of the likeliest logits are enough for the next draw, as long as nothing restricts it: from them comes
    /// the very token that all would give. `None` where it takes all.
    pub fn wanted(&self) -> Option<usize> {
        if self.params.logprobs.is_some() || self.adjustments.are_any() {
            return None;
        }
        match self.params.top_k {
            _ if self.is_greedy() => Some(1),
            0 => None,
            // One more shows whether there are others.
            top_k => Some(top_k.saturating_add(1)),
        }
    }

    /// Draws the token at `position` from the model's `logits` and takes note of it: biases and penalties apply, then
    /// `restrict`, which may set logits to negative infinity, then the filters. The likeliest logits, as many as are
    /// [`wanted`](Self::wanted), only go through the filters.
    ///
    /// Log probabilities are those of the model's own distribution, before all of that.
    ///
    /// # Errors
    /// That of `restrict`. `None` if no token is left that may be drawn.
    pub fn draw<E>(
        &mut self,
        logits: &Logits,
        position: usize,
        restrict: impl FnOnce(&mut Cow<'_, [f32]>) -> Result<(), E>,
    ) -> Result<Option<Drawn>, E> {
        let drawn = match logits {
            Logits::All(logits) => {
                let mut adjusted = Cow::Borrowed(&logits[..]);
                self.adjustments.apply(&mut adjusted);
                restrict(&mut adjusted)?;
                self.sample(&adjusted, position)
            }
            Logits::Likeliest(few) => self.sample_few(few, position),
        };
        let Some(id) = drawn else { return Ok(None) };
        self.adjustments.note(id);
        if let Some(repetition) = &mut self.repetition {
            repetition.push(id);
        }
        let logprobs = self.params.logprobs.and_then(|top| TokenLogprobs::of(logits.all()?, id, top));
        Ok(Some(Drawn { id, logprobs }))
    }

    /// Draws the token at `position` (tokens before it, the prompt's included) from its logits (`vocab_size`).
    /// Logits that are no finite number are never drawn; `None` if there is no other.
    pub fn sample(&self, logits: &[f32], position: usize) -> Option<u32> {
        Some(self.choose(likeliest(logits)?, finite(logits), position))
    }

    /// The same from the likeliest alone, likeliest first.
    fn sample_few(&self, few: &[(u32, f32)], position: usize) -> Option<u32> {
        let mut by_id = few.to_vec();
        by_id.sort_unstable_by_key(|&(id, _)| id);
        Some(self.choose(*few.first()?, by_id.into_iter(), position))
    }

    /// Whether the likeliest token is always drawn.
    fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0 || self.params.top_k == 1
    }

    /// Draws one of `logits`, finite and in the order of their ids, the likeliest of which is `best`.
    fn choose(&self, best: (u32, f32), logits: impl Iterator<Item = (u32, f32)>, position: usize) -> u32 {
        let (best, max) = best;
        if self.is_greedy() {
            return best;
        }
        let kept = self.filter(logits, max);
        draw(&kept, self.uniform(position)).unwrap_or(best)
    }

    /// What top_k, top_p and min_p leave. Never nothing: the likeliest token, whose logit is `max`, passes each.
    fn filter(&self, logits: impl Iterator<Item = (u32, f32)>, max: f32) -> Vec<Candidate> {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        // Selected before they are weighed: there may be a hundred thousand.
        let mut candidates = if top_k == 0 {
            weigh(logits, max, temperature)
        } else {
            weigh(likeliest_few(logits, top_k).into_iter(), max, temperature)
        };
        if top_p < 1.0 {
            let wanted = f64::from(top_p) * total(&candidates);
            let enough = sort_until(&mut candidates, wanted);
            candidates.truncate(enough);
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

/// The softmax's terms, scaled so that the largest logit's is 1. f64: large vocabularies are summed.
fn weigh(logits: impl Iterator<Item = (u32, f32)>, max: f32, temperature: f32) -> Vec<Candidate> {
    let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / f64::from(temperature)).exp();
    logits.map(|(id, logit)| Candidate { id, weight: weight(logit) }).collect()
}

/// Brings the likeliest candidates to the front, sorted, until their weights reach `wanted`; returns how many
/// that takes. Mostly it is a few of very many, so no more are sorted than that.
fn sort_until(candidates: &mut [Candidate], wanted: f64) -> usize {
    let (mut sorted, mut reached, mut step) = (0, 0.0, SORTED_FIRST);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let next = step.min(rest.len());
        if next < rest.len() {
            rest.select_nth_unstable_by(next, Candidate::by_rank);
        }
        rest[..next].sort_unstable_by(Candidate::by_rank);
        for candidate in &rest[..next] {
            sorted += 1;
            reached += candidate.weight;
            if reached >= wanted {
                return sorted;
            }
        }
        step *= 8;
    }
    sorted
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Unsorted, with equal logits and what can never be drawn.
    const LOGITS: [f32; 10] =
        [0.5, 2.0, f32::NAN, -1.0, 1.0, f32::NEG_INFINITY, 1.0, 0.0, f32::INFINITY, 1.7];

    fn sampled(params: &SamplingParams) -> Sampler {
        Sampler::new(SamplingParams { seed: Some(7), ..params.clone() }).unwrap()
    }

    /// The distribution that `params` mean, straight from the definitions.
    fn expected(params: &SamplingParams) -> Vec<f64> {
        let mut p: Vec<f64> = LOGITS
            .iter()
            .map(|&l| if l.is_finite() { (f64::from(l) / f64::from(params.temperature)).exp() } else { 0.0 })
            .collect();
        let mut rank: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.0).collect();
        rank.sort_by(|&a, &b| p[b].partial_cmp(&p[a]).unwrap().then(a.cmp(&b)));
        if params.top_k > 0 {
            rank.iter().skip(params.top_k).for_each(|&i| p[i] = 0.0);
        }
        let all: f64 = p.iter().sum();
        let mut before = 0.0;
        for (nth, &i) in rank.iter().enumerate() {
            let mine = p[i] / all;
            if nth > 0 && before >= f64::from(params.top_p) {
                p[i] = 0.0;
            }
            before += mine;
        }
        let max = p.iter().copied().fold(0.0, f64::max);
        p.iter_mut().for_each(|p| *p = if *p < f64::from(params.min_p) * max { 0.0 } else { *p });
        let all: f64 = p.iter().sum();
        p.iter().map(|p| p / all).collect()
    }

    /// Draws at many positions and compares the counts with the expected distribution.
    fn check_distribution(params: &SamplingParams) {
        const DRAWS: usize = 20_000;
        let sampler = sampled(params);
        let mut counts = [0usize; LOGITS.len()];
        for position in 0..DRAWS {
            counts[sampler.sample(&LOGITS, position).unwrap() as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (id, p) in expected(params).into_iter().enumerate() {
            let mean = p * DRAWS as f64;
            if p == 0.0 {
                assert_eq!(counts[id], 0, "{params:?}: {id} must not be drawn");
            } else {
                chi2 += (counts[id] as f64 - mean).powi(2) / mean;
            }
        }
        // 7 candidates at most: the 99.9th percentile at 6 degrees of freedom is 22.5. A probability that is
        // wrong by a tenth of a typical one of .15 adds 30.
        assert!(chi2 < 22.5, "{params:?}: chi-square {chi2}, counts {counts:?}");
    }

    #[test]
    fn draws_follow_the_distribution() {
        let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        for params in [
            base.clone(),
            SamplingParams { temperature: 0.5, ..base.clone() },
            SamplingParams { temperature: 2.0, ..base.clone() },
            SamplingParams { top_k: 3, ..base.clone() },
            SamplingParams { top_k: 4, ..base.clone() },
            SamplingParams { top_k: 100, ..base.clone() },
            SamplingParams { top_p: 0.6, ..base.clone() },
            SamplingParams { top_p: 0.9, temperature: 0.7, ..base.clone() },
            SamplingParams { min_p: 0.3, ..base.clone() },
            // top_p applies to what top_k left: of the whole distribution, one more token would pass.
            SamplingParams { top_k: 4, top_p: 0.7, ..base.clone() },
            SamplingParams { top_k: 6, top_p: 0.95, min_p: 0.35, temperature: 1.3, ..base.clone() },
        ] {
            check_distribution(&params);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let greedy = sampled(&SamplingParams::default());
        assert_eq!(greedy.sample(&LOGITS, 0), Some(1));
        assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, f32::NAN], 5), Some(1));
        assert_eq!(greedy.sample(&[f32::NAN, -5.0], 5), Some(1));
    }

    #[test]
    fn filters_never_leave_nothing() {
        let tight = SamplingParams {
            temperature: 1.0,
            top_p: 0.0,
            min_p: 1.0,
            top_k: 1,
            ..SamplingParams::default()
        };
        for position in 0..100 {
            assert_eq!(sampled(&tight).sample(&LOGITS, position), Some(1));
            let cold = SamplingParams { temperature: f32::MIN_POSITIVE, ..SamplingParams::default() };
            assert_eq!(sampled(&cold).sample(&LOGITS, position), Some(1));
            let tiny_p = SamplingParams { temperature: 1.0, top_p: 0.0, ..SamplingParams::default() };
            assert_eq!(sampled(&tiny_p).sample(&LOGITS, position), Some(1));
        }
    }

    #[test]
    fn logits_without_a_number_have_no_token() {
        for temperature in [0.0, 1.0] {
            let sampler = sampled(&SamplingParams { temperature, ..SamplingParams::default() });
            for bad in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 3], &[f32::INFINITY, f32::NAN]] {
                assert_eq!(sampler.sample(bad, 3), None);
            }
        }
    }

    #[test]
    fn the_seed_and_the_position_decide() {
        let params = SamplingParams { temperature: 1.0, seed: Some(1), ..SamplingParams::default() };
        let flat = [0.0; 1000];
        let draw = |seed, position| {
            let params = SamplingParams { seed, ..params.clone() };
            Sampler::new(params).unwrap().sample(&flat, position).unwrap()
        };
        let line = |seed| (0..20).map(|position| draw(seed, position)).collect::<Vec<_>>();
        assert_eq!(line(Some(1)), line(Some(1)));
        assert_ne!(line(Some(1)), line(Some(2)));
        assert_ne!(line(None), line(None), "an engine-drawn seed repeats");
        let mut distinct = line(Some(1));
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 15, "positions repeat each other's draws");
    }

    #[test]
    fn ranges() {
        let ok = SamplingParams::default();
        assert_eq!(ok.validate(), Ok(()));
        let cases = [
            (SamplingParams { temperature: -0.1, ..ok.clone() }, "temperature"),
            (SamplingParams { temperature: f32::NAN, ..ok.clone() }, "temperature"),
            (SamplingParams { temperature: f32::INFINITY, ..ok.clone() }, "temperature"),
            (SamplingParams { top_p: 1.1, ..ok.clone() }, "top_p"),
            (SamplingParams { top_p: f32::NAN, ..ok.clone() }, "top_p"),
            (SamplingParams { min_p: -0.5, ..ok.clone() }, "min_p"),
            (SamplingParams { presence_penalty: 2.1, ..ok.clone() }, "presence_penalty"),
            (SamplingParams { frequency_penalty: f32::NAN, ..ok.clone() }, "frequency_penalty"),
            (SamplingParams { repetition_penalty: 0.0, ..ok.clone() }, "repetition_penalty"),
            (SamplingParams { logit_bias: [(1, -100.5)].into(), ..ok.clone() }, "logit_bias"),
            (SamplingParams { logprobs: Some(MAX_TOP_LOGPROBS + 1), ..ok.clone() }, "top_logprobs"),
        ];
        for (params, name) in cases {
            assert_eq!(params.validate().unwrap_err().param, name, "{params:?}");
            assert!(Sampler::new(params).is_err());
        }
    }

    fn no_number() -> impl Strategy<Value = f32> {
        prop_oneof![Just(f32::NAN), Just(f32::NEG_INFINITY), Just(f32::INFINITY)]
    }

    /// The largest of logits, as they are given where no more are wanted.
    fn likeliest_of(logits: &[f32], count: usize) -> Logits {
        let mut finite: Vec<(u32, f32)> =
            (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
        finite.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        finite.truncate(count);
        Logits::Likeliest(finite)
    }

    #[test]
    fn what_looks_at_others_wants_all_logits() {
        let wanted = |params: &SamplingParams| Sampler::new(params.clone()).unwrap().wanted();
        let greedy = SamplingParams::default();
        let warm = SamplingParams { temperature: 1.0, top_p: 0.9, min_p: 0.1, ..greedy.clone() };
        let top_k = SamplingParams { top_k: 40, ..warm.clone() };
        assert_eq!(wanted(&greedy), Some(1));
        assert_eq!(wanted(&warm), None);
        assert_eq!(wanted(&top_k), Some(41));
        assert_eq!(wanted(&SamplingParams { top_k: 1, ..warm }), Some(1));
        for base in [greedy, top_k] {
            for params in [
                SamplingParams { logprobs: Some(0), ..base.clone() },
                SamplingParams { logit_bias: [(1, 3.0)].into(), ..base.clone() },
                SamplingParams { presence_penalty: 0.1, ..base.clone() },
                SamplingParams { frequency_penalty: -0.1, ..base.clone() },
                SamplingParams { repetition_penalty: 1.1, ..base.clone() },
            ] {
                assert_eq!(wanted(&params), None, "{params:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_likeliest_logits_draw_what_all_draw(
            logits in prop_oneof![
                prop::collection::vec(prop_oneof![6 => -20f32..20.0, 1 => no_number()], 1..100),
                // Many equals, 0 and -0 among them.
                prop::collection::vec(prop_oneof![6 => (-2i8..3).prop_map(|n| -f32::from(n)), 2 => Just(0.0), 1 => no_number()], 1..30),
            ],
            temperature in prop_oneof![1 => Just(0.0), 4 => 0.1f32..3.0],
            top_k in prop_oneof![(1usize..70).prop_map(Some), (1usize..12).prop_map(Some), Just(None)],
            top_p in prop_oneof![Just(1.0), 0f32..=1.0],
            min_p in prop_oneof![Just(0.0), 0f32..=1.0],
            more in prop_oneof![Just(0), 0usize..10],
            seed: u64,
        ) {
            // As many as there are, or some number.
            let top_k = top_k.unwrap_or_else(|| logits.iter().filter(|logit| logit.is_finite()).count().max(1));
            let params =
                SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..SamplingParams::default() };
            let mut of_all = Sampler::new(params).unwrap();
            let mut of_few = of_all.clone();
            for position in 0..20 {
                let draw = |sampler: &mut Sampler, logits: &Logits| {
                    sampler.draw(logits, position, |_| Ok::<_, ()>(())).unwrap()
                };
                let few = likeliest_of(&logits, of_few.wanted().unwrap() + more);
                prop_assert_eq!(draw(&mut of_few, &few), draw(&mut of_all, &Logits::All(logits.clone())));
            }
        }

        #[test]
        fn draws_only_what_passes(
            logits in prop::collection::vec(prop_oneof![4 => -20f32..20.0, 1 => Just(f32::NAN), 1 => Just(f32::NEG_INFINITY)], 1..60),
            temperature in 0f32..3.0,
            top_k in 0usize..70,
            top_p in 0f32..=1.0,
            min_p in 0f32..=1.0,
            seed: u64,
            position in 0usize..10_000,
        ) {
            let params =
                SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..SamplingParams::default() };
            let drawn = Sampler::new(params).unwrap().sample(&logits, position);
            let finite: Vec<f32> = logits.iter().copied().filter(|l| l.is_finite()).collect();
            let Some(id) = drawn else {
                prop_assert!(finite.is_empty());
                return Ok(());
            };
            let logit = logits[id as usize];
            prop_assert!(logit.is_finite());
            let better = finite.iter().filter(|&&l| l > logit).count();
            prop_assert!(top_k == 0 || better < top_k);
            let max = finite.iter().copied().fold(f32::MIN, f32::max);
            let share = f64::from(logit - max) / f64::from(temperature);
            prop_assert!(logit == max || share.exp() >= f64::from(min_p) * 0.999);
        }
    }
}
