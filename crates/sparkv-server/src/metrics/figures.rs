//! What the engine tells at the moment it is asked.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::{counter::ConstCounter, gauge::ConstGauge};
use sparkv_engine::TextEngine;

use crate::metrics::Names;

/// The engine's figures, under names of one kind.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) engine: TextEngine,
    pub(super) names: Names,
}

/// A name, what it tells, and its value.
type Figure<'a> = (&'a str, &'a str, &'a dyn EncodeMetric);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (load, stats) = (self.engine.load(), self.engine.stats());
        let gauge = |value: u64| ConstGauge::new(value as f64);
        let (running, waiting) = (gauge(load.running as u64), gauge(load.waiting as u64));
        let used = ConstGauge::new(stats.kv_active_bytes as f64 / stats.kv_budget_bytes.max(1) as f64);
        let (active, dense) = (gauge(stats.kv_active_bytes), gauge(stats.kv_dense_bytes));
        let (prefix, budget) = (gauge(stats.kv_prefix_bytes), gauge(stats.kv_budget_bytes));
        let (queries, hits) = (ConstCounter::new(stats.prefix_queries), ConstCounter::new(stats.prefix_hits));
        let generated = ConstCounter::new(stats.generated_tokens);
        let preemptions = ConstCounter::new(stats.preemptions);
        let both: [Figure<'_>; 3] = [
            ("prefix_cache_queries", "Tokens of prompts looked up in the prefix cache", &queries),
            ("prefix_cache_hits", "Tokens of prompts found in the prefix cache", &hits),
            ("generation_tokens", "Tokens generated", &generated),
        ];
        let ours: [Figure<'_>; 7] = [
            ("requests_running", "Requests that the model works on", &running),
            ("requests_waiting", "Requests that wait", &waiting),
            ("kv_cache_active_bytes", "Bytes of the KV caches of running requests", &active),
            ("kv_cache_dense_bytes", "Bytes that f16 caches of the same tokens would hold", &dense),
            ("kv_cache_prefix_bytes", "Bytes of KV caches kept for requests that may come", &prefix),
            ("kv_cache_budget_bytes", "Bytes that KV caches may hold together", &budget),
            ("preemptions", "Requests that began again because memory ran out", &preemptions),
        ];
        let vllm: [Figure<'_>; 4] = [
            ("num_requests_running", "Requests that the model works on", &running),
            ("num_requests_waiting", "Requests that wait", &waiting),
            ("kv_cache_usage_perc", "Share of the budget that KV caches of running requests hold", &used),
            ("num_preemptions", "Requests that began again because memory ran out", &preemptions),
        ];
        let own: &[Figure<'_>] = match self.names {
            Names::Ours => &ours,
            Names::Vllm => &vllm,
        };
        for (name, help, metric) in both.iter().chain(own) {
            let name = self.names.full(name);
            metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}
