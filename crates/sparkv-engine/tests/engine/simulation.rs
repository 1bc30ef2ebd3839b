//! Thousands of requests, submitted, read, dropped, late and failing at random, on engines of all kinds.
use std::{collections::VecDeque, num::NonZeroUsize, time::Duration};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use sparkv_engine::{
    EngineConfig, GenerateError, Load, RequestError, SamplingParams,
    core::{TokenEngine, TokenRequest, TokenStream},
};
use sparkv_models::fake::{BOS, FakeConfig, Fault, FaultAt, FaultKind, Probe};

use crate::support::{answer, eventually, ids, kv, request, start_with};

const MAX_QUEUE: usize = 6;

/// A step that runs it fails. No prompt has it by chance, and it is never said.
const POISON: u32 = BOS;

const SETTINGS: [&str; 6] = [
    "{}",
    "{}",
    r#"{"precision": "f32"}"#,
    r#"{"preset": "quality"}"#,
    r#"{"preset": "balanced", "continues": true}"#,
    r#"{"eviction": {"policy": "streaming", "max_tokens": 60}}"#,
];

/// A request at work, what it must say, how much of it was heard, and how it may end.
struct Client {
    stream: TokenStream,
    expected: Vec<u32>,
    /// How many tokens of the prompt the first event is to score, if any.
    scores: Option<usize>,
    heard: usize,
    poisoned: bool,
    hurried: bool,
}

/// How a client's request goes on.
#[derive(PartialEq)]
enum Heard {
    Token,
    Last,
    Failed,
    Late,
}

impl Client {
    /// Hears one more token, or the end.
    fn hear(&mut self) -> Heard {
        let heard = match self.stream.blocking_next().unwrap() {
            Ok(event) => {
                assert!(!self.poisoned);
                assert_eq!(event.prompt_logprobs.map(|logprobs| logprobs.len()), self.scores.take());
                assert_eq!(event.token.map(|token| token.id), self.expected.get(self.heard).copied());
                self.heard += 1;
                assert_eq!(event.finish.is_some(), self.heard >= self.expected.len());
                if event.finish.is_some() { Heard::Last } else { Heard::Token }
            }
            Err(GenerateError::Deadline) if self.hurried => Heard::Late,
            Err(GenerateError::Model(_) | GenerateError::Panicked(_)) if self.poisoned => Heard::Failed,
            Err(GenerateError::Logits) if self.poisoned => Heard::Failed,
            Err(error) => panic!("{error}"),
        };
        if heard != Heard::Token {
            assert!(self.stream.blocking_next().is_none());
        }
        heard
    }
}

/// A conversation's prompt so far, some of which begin alike.
fn random_request(rng: &mut ChaCha8Rng) -> TokenRequest {
    let sampling = SamplingParams {
        temperature: if rng.random_bool(0.5) { 0.0 } else { 1.0 },
        top_k: rng.random_range(0..20),
        seed: Some(rng.random()),
        ..SamplingParams::default()
    };
    let ignore_eos = rng.random_bool(0.3);
    let (prompt, tokens) = (rng.random_range(1..80), rng.random_range(0..30));
    let prompt_logprobs = rng.random_bool(0.1).then_some(1);
    let kv = kv(SETTINGS.choose(rng).unwrap());
    let timeout = rng.random_bool(0.1).then(|| Duration::from_micros(rng.random_range(0..5000)));
    let mut request = TokenRequest {
        prompt_logprobs,
        sampling,
        ignore_eos,
        kv,
        timeout,
        ..request(rng.random_range(0..8), prompt, tokens)
    };
    // (Where nothing is drawn, nobody sees logits that are no numbers.)
    if tokens > 0 && rng.random_bool(0.05) {
        let place = rng.random_range(0..prompt);
        request.prompt[place] = POISON;
    }
    request
}

struct Simulation {
    rng: ChaCha8Rng,
    fake: FakeConfig,
    config: EngineConfig,
    engine: TokenEngine,
    probe: Probe,
    clients: VecDeque<Client>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    finished: usize,
    cancelled: usize,
    refused: usize,
    too_large: usize,
    failed: usize,
    late: usize,
    preempted: u64,
    shared: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let kind = *[FaultKind::Error, FaultKind::Panic, FaultKind::Nan].choose(&mut rng).unwrap();
        // Slow enough that requests pile up.
        let fake = FakeConfig {
            delay: Duration::from_micros(50),
            fault: Some(Fault { at: FaultAt::Token(POISON), kind }),
            ..FakeConfig::default()
        };
        let config = EngineConfig {
            max_context: None,
            max_queue: NonZeroUsize::new(MAX_QUEUE).unwrap(),
            max_running: NonZeroUsize::new(rng.random_range(1..9)).unwrap(),
            // A request takes some 1 to 9 KiB.
            kv_memory: rng.random_range(6 << 10..40 << 10),
            headroom_tokens: rng.random_range(0..20),
            prefix_cache: rng.random_bool(0.7),
            prompt_balance: rng.random_range(0.0..4.0),
        };
        let (engine, probe) = start_with(&fake, config);
        Self { rng, fake, config, engine, probe, clients: VecDeque::new(), totals: Totals::default() }
    }

    /// False if it was turned away.
    fn submit(&mut self) -> bool {
        let request = random_request(&mut self.rng);
        let expected = answer(&self.fake, &request);
        let (poisoned, hurried) = (request.prompt.contains(&POISON), request.timeout.is_some());
        let scores = request.prompt_logprobs.map(|_| request.prompt.len() - 1);
        match self.engine.submit(request) {
            Ok(stream) => {
                self.clients.push_back(Client { stream, expected, scores, heard: 0, poisoned, hurried });
                return true;
            }
            Err(RequestError::QueueFull { max_queue: MAX_QUEUE }) => self.totals.refused += 1,
            Err(RequestError::TooMuchMemory { needed, budget, .. }) => {
                assert!(needed > budget && budget == self.config.kv_memory);
                self.totals.too_large += 1;
                return true;
            }
            Err(error) => panic!("{error}"),
        }
        false
    }

    /// Hears a token of a client; forgets it after the last.
    fn hear(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        match client.hear() {
            Heard::Token => return,
            Heard::Last => self.totals.finished += 1,
            Heard::Failed => self.totals.failed += 1,
            Heard::Late => self.totals.late += 1,
        }
        self.clients.remove(index);
    }

    fn check(&self) {
        let Load { running, waiting } = self.engine.load();
        let most = self.config.max_running.get();
        // One may be on its way back in the queue, and as many as run may be put back there.
        assert!(running <= most + 1, "{running} of {most} run");
        assert!(waiting <= MAX_QUEUE + most + 1, "{waiting} wait");
        let held = self.probe.held_bytes();
        assert!(held <= self.config.kv_memory, "{held} bytes of {}", self.config.kv_memory);
        assert!(self.engine.is_alive());
    }

    fn run(mut self) -> Totals {
        for _ in 0..400 {
            let pick = if self.clients.is_empty() { 0 } else { self.rng.random_range(0..self.clients.len()) };
            match self.rng.random_range(0..10) {
                // A crowd comes while the model stands still, until one is turned away.
                _ if self.rng.random_bool(0.05) => {
                    self.probe.gate().close();
                    while self.submit() {}
                    self.probe.gate().open();
                }
                0..4 => {
                    self.submit();
                }
                4..6 => self.totals.cancelled += usize::from(self.clients.remove(pick).is_some()),
                _ => self.hear(pick),
            }
            self.check();
        }
        while !self.clients.is_empty() {
            self.hear(0);
            self.check();
        }
        eventually("idle means that nothing is at work", || {
            self.engine.load() == Load::default() && self.engine.stats().kv_active_bytes == 0
        });
        if !self.config.prefix_cache {
            eventually("idle means that nothing is held", || self.probe.held_bytes() == 0);
        }
        let stats = self.engine.stats();
        (self.totals.preempted, self.totals.shared) = (stats.preemptions, stats.prefix_hits);
        let last = request(1, 5, 5);
        assert_eq!(ids(self.engine.submit(last.clone()).unwrap()), answer(&self.fake, &last));
        drop(self.engine);
        eventually("an engine that is gone holds nothing", || {
            self.probe.held_bytes() == 0 && self.probe.live_caches() == 0
        });
        self.totals
    }
}

#[test]
fn requests_come_and_go() {
    let mut all = Totals::default();
    for seed in 0..24 {
        let totals = Simulation::new(seed).run();
        all.finished += totals.finished;
        all.cancelled += totals.cancelled;
        all.refused += totals.refused;
        all.too_large += totals.too_large;
        all.failed += totals.failed;
        all.late += totals.late;
        all.preempted += totals.preempted;
        all.shared += totals.shared;
    }
    println!("{all:?}");
    // Everything that is to be tried was, as far as the seeds alone decide that; the others are likely, but how many
    // there are depends on the machine.
    assert!(all.cancelled > 300 && all.refused > 100 && all.too_large > 10, "{all:?}");
}
