//! `/metrics`, in the format that Prometheus reads: our names, and vLLM's, which routers and dashboards know.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text::encode};
use prometheus_client::metrics::{counter::ConstCounter, gauge::ConstGauge};
use prometheus_client::registry::Registry;
use sparkv_engine::{Load, Stats};

use crate::app::App;
use crate::error::ApiError;

/// The format's media type.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of this moment.
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let (load, stats) = app.figures();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures { load, stats }));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// What the engine tells at one moment.
#[derive(Debug)]
struct Figures {
    load: Load,
    stats: Stats,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self { load, stats } = self;
        let mut write = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let gauge = |value: u64| ConstGauge::new(value as f64);
        let used = stats.kv_active_bytes as f64 / stats.kv_budget_bytes.max(1) as f64;
        let (running, waiting) = (gauge(load.running as u64), gauge(load.waiting as u64));
        write("sparkv_requests_running", "Requests that the model works on", &running)?;
        write("vllm:num_requests_running", "Requests that the model works on", &running)?;
        write("sparkv_requests_waiting", "Requests in line", &waiting)?;
        write("vllm:num_requests_waiting", "Requests in line", &waiting)?;
        let help = "Bytes of the KV caches of running requests";
        write("sparkv_kv_cache_active_bytes", help, &gauge(stats.kv_active_bytes))?;
        let help = "Bytes of KV caches kept for requests that may come";
        write("sparkv_kv_cache_prefix_bytes", help, &gauge(stats.kv_prefix_bytes))?;
        let help = "Bytes that KV caches may hold together";
        write("sparkv_kv_cache_budget_bytes", help, &gauge(stats.kv_budget_bytes))?;
        let help = "Share of the budget that KV caches of running requests hold";
        write("vllm:kv_cache_usage_perc", help, &ConstGauge::new(used))?;
        let (queries, hits) = (ConstCounter::new(stats.prefix_queries), ConstCounter::new(stats.prefix_hits));
        write("sparkv_prefix_cache_queries", "Tokens of prompts looked up in the prefix cache", &queries)?;
        write("vllm:prefix_cache_queries", "Tokens of prompts looked up in the prefix cache", &queries)?;
        write("sparkv_prefix_cache_hits", "Tokens of prompts found in the prefix cache", &hits)?;
        write("vllm:prefix_cache_hits", "Tokens of prompts found in the prefix cache", &hits)?;
        let generated = ConstCounter::new(stats.generated_tokens);
        write("sparkv_generation_tokens", "Tokens generated", &generated)?;
        write("vllm:generation_tokens", "Tokens generated", &generated)?;
        let preemptions = ConstCounter::new(stats.preemptions);
        write("sparkv_preemptions", "Requests that began again because memory ran out", &preemptions)
    }
}
