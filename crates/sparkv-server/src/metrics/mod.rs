//! `/metrics`, in the format that Prometheus reads: our names, and vLLM's, which routers and dashboards know.
//!
//! Three sources. The engine is asked for its figures when somebody reads them (`figures`). Requests are watched
//! while they run ([`crate::generation::observed`]): their times are the engine's own, so that a client that reads slowly does
//! not make the model look slow. Errors are counted where a request ends ([`crate::access_log`]).

mod classic;
mod figures;
mod process;
pub(crate) mod route;

use std::env::consts::{ARCH, OS};
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sparkv::KvUsage;
use sparkv_engine::{TextEngine, Timings, Usage};

use figures::Figures;
use process::Process;

/// Upper ends of buckets, in seconds: vLLM's, so that dashboards made for it fit, and what a small model needs.
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// The same, between two tokens.
const BETWEEN_TOKENS: [f64; 21] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
];
/// The same, of whole requests, and of their time in the queue.
const WHOLE: [f64; 22] = [
    0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// One label and its value.
type Label = [(&'static str, String); 1];

/// Whose names figures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `sparkv_...`, without labels of our own: a process serves one model.
    Ours,
    /// `vllm:...`, with the label `model_name`, which vLLM's have.
    Vllm,
}

impl Names {
    fn full(self, name: &str) -> String {
        match self {
            Self::Ours => format!("sparkv_{name}"),
            Self::Vllm => format!("vllm:{name}"),
        }
    }
}

/// All metrics of a server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: RequestMetrics,
}

/// Metrics of requests.
#[derive(Debug)]
struct RequestMetrics {
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queue: Histogram,
    prompt_tokens: Counter,
    success: Family<Label, Counter>,
    cancelled: Counter,
    errors: Family<Label, Counter>,
    /// Of each preset, `custom` and `budget`: the operator names them, so there are few.
    requests: Family<Label, Counter>,
    kv_bytes: Family<Label, Counter>,
    kv_dense_bytes: Family<Label, Counter>,
}

impl Metrics {
    /// Metrics of `engine`, which serves the model of this name.
    pub(crate) fn new(engine: &TextEngine, model_name: &str) -> Self {
        let requests = RequestMetrics {
            first_token: Histogram::new(FIRST_TOKEN),
            between_tokens: Histogram::new(BETWEEN_TOKENS),
            whole: Histogram::new(WHOLE),
            queue: Histogram::new(WHOLE),
            prompt_tokens: Counter::default(),
            success: Family::default(),
            cancelled: Counter::default(),
            errors: Family::default(),
            requests: Family::default(),
            kv_bytes: Family::default(),
            kv_dense_bytes: Family::default(),
        };
        let mut registry = Registry::default();
        let figures = |names| Box::new(Figures { engine: engine.clone(), names });
        requests.register(&mut registry, Names::Ours);
        requests.register_own(&mut registry);
        registry.register_collector(figures(Names::Ours));
        registry.register_collector(Box::new(Process::default()));
        let build = Family::<[(&'static str, &'static str); 3], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("os", OS), ("arch", ARCH)]).set(1);
        registry.register(Names::Ours.full("build_info"), "What is running", build);
        let vllm = registry.sub_registry_with_label(("model_name".into(), model_name.to_owned().into()));
        requests.register(vllm, Names::Vllm);
        vllm.register_collector(figures(Names::Vllm));
        Self(Arc::new(Inner { registry, requests }))
    }

    /// The figures of this moment, in OpenMetrics' text format.
    ///
    /// # Errors
    /// Never: a text takes what is written to it.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    /// A request has its first token.
    pub(crate) fn begun(&self, prompt_tokens: usize, encode_seconds: f64, timings: Timings) {
        let metrics = &self.0.requests;
        metrics.prompt_tokens.inc_by(prompt_tokens as u64);
        metrics.queue.observe(timings.queue_seconds);
        metrics.first_token.observe(encode_seconds + timings.queue_seconds + timings.prefill_seconds);
    }

    /// `tokens` more came in `seconds`. (Text is held back now and then, so that some come together.)
    pub(crate) fn continued(&self, tokens: usize, seconds: f64) {
        for _ in 0..tokens {
            self.0.requests.between_tokens.observe(seconds / tokens as f64);
        }
    }

    /// A request has its whole answer.
    pub(crate) fn finished(
        &self,
        reason: &'static str,
        usage: &Usage,
        encode_seconds: f64,
        timings: Timings,
    ) {
        let metrics = &self.0.requests;
        let Timings { queue_seconds, prefill_seconds, decode_seconds } = timings;
        metrics.whole.observe(encode_seconds + queue_seconds + prefill_seconds + decode_seconds);
        metrics.success.get_or_create(&[("finished_reason", reason.to_owned())]).inc();
        let KvUsage { preset, bytes, dense_bytes, .. } = &usage.kv_cache;
        let preset = [("preset", preset.clone())];
        metrics.requests.get_or_create(&preset).inc();
        metrics.kv_bytes.get_or_create(&preset).inc_by(*bytes);
        metrics.kv_dense_bytes.get_or_create(&preset).inc_by(*dense_bytes);
    }

    /// A client went away before it had its answer.
    pub(crate) fn cancelled(&self) {
        self.0.requests.cancelled.inc();
    }

    /// A request ended with an error.
    pub(crate) fn failed(&self, code: &'static str) {
        self.0.requests.errors.get_or_create(&[("code", code.to_owned())]).inc();
    }
}

impl RequestMetrics {
    /// What has the same name but for the prefix.
    fn register(&self, registry: &mut Registry, names: Names) {
        let Self { first_token, between_tokens, whole, queue, prompt_tokens, success, .. } = self;
        for (name, help, histogram) in [
            ("time_to_first_token_seconds", "From a request's arrival to its first token", first_token),
            ("inter_token_latency_seconds", "From one token of a request to its next", between_tokens),
            ("e2e_request_latency_seconds", "From a request's arrival to its last token", whole),
            ("request_queue_time_seconds", "Time in the queue until the model took a request up", queue),
        ] {
            registry.register(names.full(name), help, histogram.clone());
        }
        registry.register(names.full("prompt_tokens"), "Tokens of prompts computed", prompt_tokens.clone());
        let help = "Requests answered, by why the answer ended";
        registry.register(names.full("request_success"), help, success.clone());
    }

    /// What only we have.
    fn register_own(&self, registry: &mut Registry) {
        let Self { cancelled, errors, requests, kv_bytes, kv_dense_bytes, .. } = self;
        let name = |name| Names::Ours.full(name);
        let help = "Requests whose clients went away before the answer was complete";
        registry.register(name("requests_cancelled"), help, cancelled.clone());
        registry.register(name("errors"), "Requests that ended with an error, by its code", errors.clone());
        let help = "Requests answered, by KV preset";
        registry.register(name("preset_requests"), help, requests.clone());
        let help = "Bytes that KV caches held when their requests ended, added up by preset";
        registry.register(name("preset_kv_bytes"), help, kv_bytes.clone());
        let help = "Bytes that f16 caches of the same tokens would have held";
        registry.register(name("preset_kv_dense_bytes"), help, kv_dense_bytes.clone());
    }
}
