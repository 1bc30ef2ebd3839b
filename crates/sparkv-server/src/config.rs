//! What the operator decides.

use std::time::Duration;

use sparkv::{KvChoice, Presets};
use tracing::Span;

use crate::http::api_keys::ApiKeys;
use crate::refusals::UnknownFields;

/// Makes a request's span part of the trace that its client names in `traceparent`.
pub type AdoptTrace = fn(&Span, &str);

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Name under which the model is served.
    pub model_name: String,
    /// Other names that requests may use for it.
    pub model_aliases: Vec<String>,
    /// Whether the other names are listed, too.
    pub list_aliases: bool,
    /// Whether requests may name any model, and mean the one that is served.
    pub accept_any_model: bool,
    /// Where the model is: what the operator calls it, a folder, a file or a name on the hub.
    pub model_path: String,
    /// What may change while it runs.
    pub policy: Policy,
    /// What becomes of fields of requests that nobody knows.
    pub unknown_fields: UnknownFields,
    /// The largest request body taken, in bytes.
    pub body_limit: usize,
    /// Requests are taken for this long after the server was told to stop, while it is not ready any more.
    pub drain_delay: Duration,
    /// Running requests get this long to finish after that.
    pub drain_deadline: Duration,
    /// A request that takes longer ends with an error; none does if `None`.
    pub request_timeout: Option<Duration>,
    /// Whether /health fails, as /ready does, while requests should go elsewhere.
    pub health_follows_ready: bool,
    /// Whether /metrics wants no key.
    pub metrics_open: bool,
    /// Makes the span of a request part of its client's trace, where spans are collected.
    pub adopt_trace: Option<AdoptTrace>,
}

/// What the operator may change while the server runs.
#[derive(Debug, Clone)]
pub struct Policy {
    /// One of them is needed on all routes but those of probes and /version, if there are any.
    pub api_keys: ApiKeys,
    /// What the cache of a request without `kv_cache` may cost.
    pub default_kv: KvChoice,
    /// What requests may name in `kv_cache.preset`.
    pub presets: Presets,
}
