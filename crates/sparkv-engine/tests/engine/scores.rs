//! What the model thinks of prompts.
use std::num::NonZeroUsize;

use sparkv::{KvSettings, Presets};
use sparkv_engine::{
    EngineConfig, Event, FinishReason, GenerateError, GenerateRequest, Load, Prompt, PromptToken, TextEngine,
    TextModel,
    core::{TokenEngine, TokenRequest},
    sampler::TokenLogprobs,
};
use sparkv_models::{
    LanguageModel, LoadOptions, ModelSource,
    fake::{self, FakeConfig, FakeModel, Fault, FaultAt, FaultKind},
    load,
};

use crate::support::{answer, collect, config, ids_of, kv, request, start_with};

fn many() -> EngineConfig {
    EngineConfig { max_running: NonZeroUsize::new(8).unwrap(), prefix_cache: true, ..config(64) }
}

/// The natural logarithm of a token's probability.
fn log_softmax(logits: &[f32], id: u32) -> f32 {
    let sum: f32 = logits.iter().filter(|logit| logit.is_finite()).map(|logit| logit.exp()).sum();
    logits[id as usize] - sum.ln()
}

/// Tokens that the fake model might say.
fn sayable(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| fake::BYTE_OFFSET + 0x20 + (seed * 31 + i * 7) % 90).collect()
}

fn scored(seed: u32, length: usize, max_tokens: usize, json: &str) -> TokenRequest {
    TokenRequest {
        prompt: sayable(seed, length),
        prompt_logprobs: Some(2),
        kv: kv(json),
        ignore_eos: true,
        ..request(seed, length, max_tokens)
    }
}

fn check(fake: &FakeConfig, prompt: &[u32], logprobs: &[TokenLogprobs]) {
    assert_eq!(logprobs.len(), prompt.len() - 1);
    for (index, got) in logprobs.iter().enumerate() {
        let logits = fake::logits(fake, &prompt[..=index]);
        let expected = log_softmax(&logits, prompt[index + 1]);
        assert!((got.logprob - expected).abs() < 1e-4, "{index}: {} is not {expected}", got.logprob);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!((got.top.len(), logits[got.top[0].0 as usize]), (2, best));
    }
}

#[test]
fn each_token_of_a_prompt_has_its_probability_whoever_else_runs() {
    let fake = FakeConfig::default();
    let (engine, probe) = start_with(&fake, many());
    // In the prefix cache is what would have been found.
    collect(engine.submit(TokenRequest { prompt_logprobs: None, ..scored(1, 60, 1, "{}") }).unwrap())
        .unwrap();
    let requests: Vec<TokenRequest> = (0..6)
        .map(|i| {
            let json = ["{}", r#"{"preset": "balanced"}"#][i as usize % 2];
            let request = scored(1, 60 - 7 * i as usize, 5 * i as usize, json);
            if i % 2 == 1 { TokenRequest { prompt_logprobs: None, ..request } } else { request }
        })
        .collect();
    let streams: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (request, stream) in requests.iter().zip(streams) {
        let events = collect(stream).unwrap();
        assert_eq!(ids_of(&events), answer(&fake, request));
        let (first, rest) = events.split_first().unwrap();
        assert!(rest.iter().all(|event| event.prompt_logprobs.is_none()));
        match &first.prompt_logprobs {
            Some(logprobs) => {
                check(&fake, &request.prompt, logprobs);
                assert_eq!(first.cached_tokens, 0, "all of it was computed");
            }
            None => assert_eq!(request.prompt_logprobs, None),
        }
    }
    assert_eq!(engine.load(), Load::default());
    drop(engine);
    crate::support::eventually("all is freed", || probe.held_bytes() == 0);
}

#[test]
fn a_prompt_alone_is_computed_and_kept_for_others() {
    let fake = FakeConfig::default();
    let (engine, _) = start_with(&fake, many());
    for length in [1, 2, 50] {
        let events = collect(engine.submit(scored(2, length, 0, "{}")).unwrap()).unwrap();
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&event.token, event.finish), (&None, Some(FinishReason::Length)));
        assert_eq!((event.kv.kept_tokens, event.kv.prompt_tokens), (length, length));
        check(&fake, &sayable(2, length), event.prompt_logprobs.as_ref().unwrap());
    }
    let next = TokenRequest { prompt_logprobs: None, ..scored(2, 60, 3, "{}") };
    let events = collect(engine.submit(next).unwrap()).unwrap();
    assert_eq!(events[0].cached_tokens, 48);
    assert_eq!(engine.stats().generated_tokens, 3);
}

/// It loses what it had computed, and says everything once.
#[test]
fn a_prompt_that_begins_again_is_scored_once() {
    let fault = Fault { at: FaultAt::Step(4), kind: FaultKind::Error };
    let fake = FakeConfig { fault: Some(fault), ..FakeConfig::default() };
    let (engine, probe) = start_with(&fake, many());
    probe.gate().close();
    let requests = [scored(3, 40, 4, "{}"), scored(4, 40, 4, "{}")];
    let streams: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    probe.gate().open();
    for (request, stream) in requests.iter().zip(streams) {
        let events = collect(stream).unwrap();
        assert_eq!(ids_of(&events), answer(&fake, request));
        check(&fake, &request.prompt, events[0].prompt_logprobs.as_ref().unwrap());
    }
}

#[test]
fn logits_without_a_number_are_an_error() {
    let fault = Fault { at: FaultAt::Step(1), kind: FaultKind::Nan };
    let (engine, _) = start_with(&FakeConfig { fault: Some(fault), ..FakeConfig::default() }, many());
    let error = collect(engine.submit(scored(5, 20, 0, "{}")).unwrap()).unwrap_err();
    assert!(matches!(error, GenerateError::Logits), "{error}");
}

/// Against the same model, a token at a time.
#[test]
fn scores_of_a_real_model_are_the_log_softmax_of_its_logits() {
    let demo = || load(&ModelSource::Demo, &LoadOptions::default(), &()).unwrap().decoder;
    let decoder = demo();
    let prompt: Vec<u32> = (0..150).map(|i| 3 + (i * 37) % 3000).collect();
    let mut cache = decoder.new_cache(&KvSettings::exact(), 1).unwrap();
    let mut logits = decoder.prefill(&prompt[..1], &mut cache, &mut || true).unwrap().unwrap();
    let mut expected = Vec::new();
    for &token in &prompt[1..] {
        expected.push(log_softmax(&logits, token));
        logits = decoder.decode(&[token], &mut [&mut cache]).unwrap().remove(0);
    }
    let engine = TokenEngine::start(demo(), many(), Presets::built_in().unwrap()).unwrap();
    for json in ["{}", r#"{"preset": "aggressive"}"#] {
        let request = TokenRequest { prompt: prompt.clone(), ..scored(0, 1, 0, json) };
        let events = collect(engine.submit(request).unwrap()).unwrap();
        let got = events[0].prompt_logprobs.as_ref().unwrap();
        assert_eq!(got.len(), expected.len());
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(
                (got.logprob - expected).abs() < 2e-3,
                "{json}, {index}: {} is not {expected}",
                got.logprob
            );
        }
    }
}

#[test]
fn tokens_of_a_prompt_have_their_places_in_its_text() {
    let fake = FakeConfig::default();
    let (model, _) = FakeModel::new(fake.clone());
    let text = TextModel::new(fake::tokenizer().unwrap(), None, None, None);
    let engine = TextEngine::start(model, text, many(), Presets::built_in().unwrap()).unwrap();
    let prompt = "a\u{20ac}b";
    let request = GenerateRequest {
        prompt_logprobs: Some(1),
        max_tokens: Some(0),
        ..GenerateRequest::new(Prompt::Text(prompt.to_owned()))
    };
    let mut stream = engine.generate(request).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| stream.blocking_next()).collect::<Result<_, _>>().unwrap();
    let [Event::Prompt(tokens), Event::Text { text, token_ids, .. }, Event::Done { reason, usage, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((text.as_str(), token_ids.len(), *reason), ("", 0, FinishReason::Length));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (tokens.len(), 0));
    let offsets: Vec<usize> = tokens.iter().map(|token| token.offset).collect();
    // The beginning has no text; a character of three bytes is there with its last.
    assert_eq!(offsets, [0, 0, 1, 1, 1, 2]);
    let bytes: Vec<u8> = tokens[1..].iter().flat_map(|token| token.bytes.clone()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), prompt);
    let known = |token: &PromptToken| (token.logprob.is_some(), token.top.len());
    assert_eq!(known(&tokens[0]), (false, 0));
    assert!(tokens[1..].iter().all(|token| known(token) == (true, 1)));
}
