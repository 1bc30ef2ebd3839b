//! Requests on a simulated device, which gives no logits but those that a draw takes.
use std::sync::Arc;

use sparkv::accelerator::Checks;
use sparkv::{Accelerator, Budget, Presets};
use sparkv_engine::{
    SamplingParams,
    core::{Constraint, Grammar, TokenEngine, TokenRequest},
};
use sparkv_models::{LoadOptions, ModelSource, Place, WeightFormat, load, load_to};

use crate::support::{collect, config, ids};

/// The demo model on the CPU, and on a simulated device.
fn both() -> Option<[TokenEngine; 2]> {
    let place = Place::on_accelerator(&Accelerator::simulated(Checks::Bounds, 3)?);
    let (weights, kv_memory) = (WeightFormat::F32, Budget::Bytes(16 << 20));
    let options = LoadOptions { weights, kv_memory, ..LoadOptions::default() };
    let models =
        [load(&ModelSource::Demo, &options, &()), load_to(&ModelSource::Demo, &options, &place, &())];
    let presets = Presets::built_in().unwrap();
    Some(models.map(|model| TokenEngine::start(model.unwrap().decoder, config(64), presets.clone()).unwrap()))
}

/// Any odd tokens.
#[derive(Debug)]
struct Odd;

impl Grammar for Odd {
    fn start(&self) -> Box<dyn Constraint> {
        Box::new(Self)
    }
}

impl Constraint for Odd {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        logits.iter_mut().step_by(2).for_each(|logit| *logit = f32::NEG_INFINITY);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        if id % 2 == 1 { Ok(false) } else { Err(format!("{id} is even")) }
    }
}

/// The tokens of a request on both, and on the device with log probabilities, too, which take whole rows.
fn tokens([cpu, device]: &[TokenEngine; 2], request: &TokenRequest) -> Vec<u32> {
    let found = ids(device.submit(request.clone()).unwrap());
    assert_eq!(found, ids(cpu.submit(request.clone()).unwrap()), "{:?}", request.sampling);
    let sampling = SamplingParams { logprobs: Some(3), ..request.sampling.clone() };
    let events = collect(device.submit(TokenRequest { sampling, ..request.clone() }).unwrap()).unwrap();
    let told: Vec<_> = events.into_iter().filter_map(|event| event.token).collect();
    assert_eq!(found, told.iter().map(|token| token.id).collect::<Vec<_>>(), "{:?}", request.sampling);
    for token in &told {
        let logprobs = token.logprobs.as_ref().unwrap();
        assert_eq!(logprobs.top.len(), 3);
        assert!(logprobs.logprob <= logprobs.top[0].1 && logprobs.top[0].1 <= 0.0);
    }
    found
}

#[test]
fn tokens_are_those_of_whole_rows() {
    let Some(both) = both() else { return };
    let greedy = TokenRequest {
        max_tokens: Some(12),
        sampling: SamplingParams { seed: Some(5), ..SamplingParams::default() },
        ignore_eos: true,
        ..TokenRequest::new((5..45).collect())
    };
    let with = |sampling| TokenRequest { sampling, ..greedy.clone() };
    let likeliest = tokens(&both, &greedy);
    let warm = SamplingParams { temperature: 1.2, ..greedy.sampling.clone() };
    for top_k in [0, 1, 2, 40, 64, 100] {
        let drawn = tokens(&both, &with(SamplingParams { top_k, top_p: 0.95, ..warm.clone() }));
        assert_eq!(drawn == likeliest, top_k == 1, "top_k {top_k}");
    }
}

#[test]
fn what_changes_logits_does_so() {
    let Some(both) = both() else { return };
    let plain = TokenRequest {
        max_tokens: Some(12),
        sampling: SamplingParams { temperature: 0.7, top_k: 40, seed: Some(5), ..SamplingParams::default() },
        ignore_eos: true,
        ..TokenRequest::new((5..45).collect())
    };
    let with = |sampling| TokenRequest { sampling, ..plain.clone() };
    let drawn = tokens(&both, &plain);
    let sampling = || plain.sampling.clone();
    let penalties = SamplingParams { repetition_penalty: 1.5, frequency_penalty: 1.0, ..sampling() };
    assert_ne!(tokens(&both, &with(penalties)), drawn);
    let bias = SamplingParams { logit_bias: [(300, 100.0)].into(), ..sampling() };
    assert_eq!(tokens(&both, &with(bias)), [300; 12]);
    let odd = TokenRequest { grammar: Some(Arc::new(Odd)), ..plain.clone() };
    assert_eq!(tokens(&both, &odd).len(), 12);
    // An end that may come only later.
    let stop_tokens = vec![drawn[0]];
    let ending = TokenRequest { stop_tokens, ..with(SamplingParams { min_tokens: 5, ..sampling() }) };
    assert!(!tokens(&both, &ending)[..5].contains(&drawn[0]));
}
