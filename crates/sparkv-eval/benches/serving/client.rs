//! Clients of an engine, each on a thread of its own.

use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sparkv::{KvChoice, Presets};
use sparkv_engine::core::{TokenEngine, TokenRequest};

/// What the JSON of a `kv_cache` object asks for.
pub(crate) fn kv(json: &str) -> anyhow::Result<KvChoice> {
    Ok(Presets::built_in()?.resolve(&serde_json::from_str(json)?)?)
}

/// A request that is answered with just `max_tokens` tokens. Prompts of other seeds begin differently.
pub(crate) fn request(engine: &TokenEngine, seed: usize, length: usize, max_tokens: usize) -> TokenRequest {
    let vocab = engine.info().vocab_size;
    let prompt = (0..length).map(|index| ((index + 1) * (7919 + 2 * seed) % vocab) as u32).collect();
    TokenRequest { max_tokens: Some(max_tokens), ignore_eos: true, ..TokenRequest::new(prompt) }
}

/// A request at work; dropping it lets it run to its end.
pub(crate) struct Client {
    begun: Instant,
    times: Receiver<Instant>,
    ids: JoinHandle<Vec<u32>>,
}

impl Client {
    pub(crate) fn start(engine: &TokenEngine, request: TokenRequest) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut stream = engine.submit(request)?;
        let (send, times) = channel();
        let ids = std::thread::spawn(move || {
            let mut ids = Vec::new();
            while let Some(Ok(event)) = stream.blocking_next() {
                ids.extend(event.token.map(|token| token.id));
                if send.send(Instant::now()).is_err() {
                    // Nobody measures any more: the client goes away.
                    break;
                }
            }
            ids
        });
        Ok(Self { begun, times, ids })
    }

    /// When the next token came.
    pub(crate) fn next(&self) -> anyhow::Result<Instant> {
        Ok(self.times.recv()?)
    }

    /// Time to the first token, which was not heard yet.
    pub(crate) fn first(&self) -> anyhow::Result<Duration> {
        Ok(self.next()? - self.begun)
    }

    /// When tokens came that were not heard yet, without waiting.
    pub(crate) fn heard(&self) -> Vec<Instant> {
        self.times.try_iter().collect()
    }

    /// Whether its answer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ids.is_finished()
    }

    /// The whole answer.
    pub(crate) fn finish(self) -> Vec<u32> {
        while self.times.recv().is_ok() {}
        self.ids.join().unwrap_or_default()
    }

    /// Goes away.
    pub(crate) fn leave(self) {
        drop(self.times);
    }
}

/// Gaps between the moments.
pub(crate) fn gaps(times: &[Instant]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Median, 95th percentile and largest, in milliseconds.
pub(crate) fn summary(mut gaps: Vec<Duration>) -> serde_json::Value {
    gaps.sort_unstable();
    let at = |share: f64| {
        let index = ((gaps.len() as f64 * share) as usize).min(gaps.len().saturating_sub(1));
        gaps.get(index).map(|gap| gap.as_secs_f64() * 1e3)
    };
    serde_json::json!({ "median_ms": at(0.5), "p95_ms": at(0.95), "max_ms": at(1.0), "count": gaps.len() })
}
