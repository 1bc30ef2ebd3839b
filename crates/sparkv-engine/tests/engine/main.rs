//! The engine over a fake model: its tokens are a hash of the whole prefix, its caches are counted.
mod cancel;
mod core;
mod faults;
mod simulation;
mod text;

use std::{num::NonZeroUsize, time::Duration};

use sparkv::KvChoice;
use sparkv_engine::{
    EngineConfig, GenerateError, SamplingParams,
    core::{Token, TokenEngine, TokenRequest, TokenStream},
    sampler::Sampler,
};
use sparkv_models::fake::{self, FakeConfig, FakeModel, Probe};

fn config(max_queue: usize) -> EngineConfig {
    EngineConfig { max_queue: NonZeroUsize::new(max_queue).unwrap() }
}

fn start(fake: &FakeConfig, max_queue: usize) -> (TokenEngine, Probe) {
    let (model, probe) = FakeModel::new(fake.clone());
    (TokenEngine::start(model, config(max_queue)).unwrap(), probe)
}

/// A greedy request for up to `max_tokens` after a prompt of `length` tokens that `seed` tells apart.
fn request(seed: u32, length: usize, max_tokens: usize) -> TokenRequest {
    TokenRequest {
        prompt: (0..length as u32).map(|i| fake::BYTE_OFFSET + (seed * 31 + i * 7) % 256).collect(),
        max_tokens: Some(max_tokens),
        sampling: SamplingParams::default(),
        ignore_eos: false,
        kv: KvChoice::default(),
    }
}

/// What the fake model must answer, computed without an engine.
fn answer(config: &FakeConfig, request: &TokenRequest) -> Vec<u32> {
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

/// All tokens of a stream, or the error that ended it. Checks that it ends once.
fn collect(mut stream: TokenStream) -> Result<Vec<Token>, GenerateError> {
    let mut tokens: Vec<Token> = Vec::new();
    let result = loop {
        match stream.blocking_next() {
            Some(Ok(token)) => tokens.push(token),
            Some(Err(error)) => break Err(error),
            None => break Ok(tokens),
        }
    };
    assert!(stream.blocking_next().is_none(), "a stream went on after its end");
    if let Ok([before @ .., last]) = result.as_deref() {
        assert!(last.finish.is_some(), "a stream ended without a reason");
        assert!(before.iter().all(|token| token.finish.is_none()), "a token after the last");
    }
    result
}

fn ids(stream: TokenStream) -> Vec<u32> {
    collect(stream).unwrap().iter().map(|token| token.id).collect()
}

/// Waits for what another thread is about to do.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never happened: {what}");
}
