//! An engine over the fake model, and what it must answer.
use std::{num::NonZeroUsize, time::Duration};

use sparkv::{KvChoice, Presets};
use sparkv_engine::{
    EngineConfig, GenerateError,
    core::{TokenEngine, TokenEvent, TokenRequest, TokenStream},
    sampler::Sampler,
};
use sparkv_models::fake::{self, FakeConfig, FakeModel, Probe};

/// One request at a time, and nothing is kept of it.
pub(crate) fn config(max_queue: usize) -> EngineConfig {
    EngineConfig {
        max_queue: NonZeroUsize::new(max_queue).unwrap(),
        max_running: NonZeroUsize::MIN,
        prefix_cache: false,
        ..EngineConfig::default()
    }
}

pub(crate) fn start(fake: &FakeConfig, max_queue: usize) -> (TokenEngine, Probe) {
    start_with(fake, config(max_queue))
}

pub(crate) fn start_with(fake: &FakeConfig, config: EngineConfig) -> (TokenEngine, Probe) {
    let (model, probe) = FakeModel::new(fake.clone());
    (TokenEngine::start(model, config, Presets::built_in().unwrap()).unwrap(), probe)
}

/// What the JSON of a `kv_cache` object asks for.
pub(crate) fn kv(json: &str) -> KvChoice {
    Presets::built_in().unwrap().resolve(&serde_json::from_str(json).unwrap()).unwrap()
}

/// A greedy request for up to `max_tokens` after a prompt of `length` tokens that `seed` tells apart.
pub(crate) fn request(seed: u32, length: usize, max_tokens: usize) -> TokenRequest {
    let prompt = (0..length as u32).map(|i| fake::BYTE_OFFSET + (seed * 31 + i * 7) % 256).collect();
    TokenRequest { max_tokens: Some(max_tokens), ..TokenRequest::new(prompt) }
}

/// What the fake model must answer, computed without an engine.
pub(crate) fn answer(config: &FakeConfig, request: &TokenRequest) -> Vec<u32> {
    let sampler = Sampler::new(request.sampling.clone()).unwrap();
    let mut tokens = request.prompt.clone();
    let left = config.context_length - tokens.len();
    for _ in 0..request.max_tokens.unwrap_or(left) {
        let token = sampler.sample(&fake::logits(config, &tokens), tokens.len()).unwrap();
        tokens.push(token);
        if token == config.eos_token_id && !request.ignore_eos {
            break;
        }
    }
    tokens.split_off(request.prompt.len())
}

/// All events of a stream, or the error that ended it. Checks that it ends once.
pub(crate) fn collect(mut stream: TokenStream) -> Result<Vec<TokenEvent>, GenerateError> {
    let mut events: Vec<TokenEvent> = Vec::new();
    let result = loop {
        match stream.blocking_next() {
            Some(Ok(event)) => events.push(event),
            Some(Err(error)) => break Err(error),
            None => break Ok(events),
        }
    };
    assert!(stream.blocking_next().is_none(), "a stream went on after its end");
    if let Ok([before @ .., last]) = result.as_deref() {
        assert!(last.finish.is_some(), "a stream ended without a reason");
        assert!(before.iter().all(|event| event.finish.is_none()), "an event after the last");
    }
    result
}

/// The tokens of events.
pub(crate) fn ids_of(events: &[TokenEvent]) -> Vec<u32> {
    events.iter().flat_map(|event| &event.token).map(|token| token.id).collect()
}

pub(crate) fn ids(stream: TokenStream) -> Vec<u32> {
    ids_of(&collect(stream).unwrap())
}

/// Waits for what another thread is about to do.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never happened: {what}");
}
