//! Some hundreds of requests, submitted, read and dropped at random.
use std::{collections::VecDeque, time::Duration};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_engine::{
    Load, RequestError, SamplingParams,
    core::{TokenEngine, TokenRequest, TokenStream},
};
use sparkv_models::fake::{FakeConfig, Probe};

use crate::support::{answer, eventually, ids, request, start};

const MAX_QUEUE: usize = 6;

/// A request at work, what it must say, and how much of it was heard.
struct Client {
    stream: TokenStream,
    expected: Vec<u32>,
    heard: usize,
}

impl Client {
    /// Hears one more token; false after the last.
    fn hear(&mut self) -> bool {
        let token = self.stream.blocking_next().unwrap().unwrap();
        assert_eq!(token.id, self.expected[self.heard]);
        self.heard += 1;
        assert_eq!(token.finish.is_some(), self.heard == self.expected.len());
        if token.finish.is_some() {
            assert!(self.stream.blocking_next().is_none());
        }
        token.finish.is_none()
    }
}

fn random_request(rng: &mut ChaCha8Rng) -> TokenRequest {
    let sampling = SamplingParams {
        temperature: if rng.random_bool(0.5) { 0.0 } else { 1.0 },
        top_k: rng.random_range(0..20),
        seed: Some(rng.random()),
        ..SamplingParams::default()
    };
    let ignore_eos = rng.random_bool(0.3);
    let (prompt, tokens) = (rng.random_range(1..80), rng.random_range(1..30));
    TokenRequest { sampling, ignore_eos, ..request(rng.random_range(0..1000), prompt, tokens) }
}

fn check(engine: &TokenEngine, probe: &Probe) {
    let Load { running, waiting } = engine.load();
    assert!(running <= 1 && waiting <= MAX_QUEUE + 1 - running.min(1), "{running} run, {waiting} wait");
    assert!(probe.live_caches() <= 1);
    assert!(engine.is_alive());
}

/// Requests that finished, were cancelled, and were refused.
fn simulate(seed: u64) -> [usize; 3] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Slow enough that requests pile up.
    let fake = FakeConfig { delay: Duration::from_micros(50), ..FakeConfig::default() };
    let (engine, probe) = start(&fake, MAX_QUEUE);
    let mut clients: VecDeque<Client> = VecDeque::new();
    let (mut finished, mut cancelled, mut refused) = (0, 0, 0);
    for _ in 0..400 {
        let pick = if clients.is_empty() { 0 } else { rng.random_range(0..clients.len()) };
        match rng.random_range(0..10) {
            // A crowd comes while the model stands still, until one is turned away.
            _ if rng.random_bool(0.05) => {
                probe.gate().close();
                loop {
                    let request = random_request(&mut rng);
                    let expected = answer(&fake, &request);
                    match engine.submit(request) {
                        Ok(stream) => clients.push_back(Client { stream, expected, heard: 0 }),
                        Err(RequestError::QueueFull { max_queue: MAX_QUEUE }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                refused += 1;
                probe.gate().open();
            }
            0..4 => {
                let request = random_request(&mut rng);
                let expected = answer(&fake, &request);
                match engine.submit(request) {
                    Ok(stream) => clients.push_back(Client { stream, expected, heard: 0 }),
                    Err(RequestError::QueueFull { max_queue: MAX_QUEUE }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            4..6 => cancelled += usize::from(clients.remove(pick).is_some()),
            // The first is the one that runs; a client that waits for a later one waits for all before it.
            _ => {
                if let Some(client) = clients.front_mut()
                    && !client.hear()
                {
                    finished += 1;
                    clients.pop_front();
                }
            }
        }
        check(&engine, &probe);
    }
    for mut client in clients {
        while client.hear() {}
        finished += 1;
    }
    eventually("idle means nothing is held", || engine.load() == Load::default() && probe.live_caches() == 0);
    let last = request(1, 5, 5);
    assert_eq!(ids(engine.submit(last.clone()).unwrap()), answer(&fake, &last));
    [finished, cancelled, refused]
}

#[test]
fn requests_come_and_go() {
    let mut totals = [0; 3];
    for seed in 0..12 {
        for (total, count) in totals.iter_mut().zip(simulate(seed)) {
            *total += count;
        }
    }
    assert!(totals.iter().all(|&total| total > 100), "finished, cancelled, refused: {totals:?}");
}
