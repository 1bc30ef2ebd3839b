//! What becomes of each request: collected while it runs, told to the log and the metrics once, when it ends.
//!
//! A request ends when the last piece of its answer was written or given up, which for a stream is long after its
//! handler returned. So the line is written by what is dropped with the answer's body, and whoever works on the
//! request finds its [`Entry`] in the task that handles it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use sparkv_engine::Usage;
use tracing::Span;

use crate::error::ErrorCode;
use crate::metrics::Metrics;

/// Asked every few seconds by machines; their lines are for who debugs.
const PROBES: [&str; 4] = ["/health", "/ready", "/ping", "/metrics"];

tokio::task_local! {
    /// The entry of the request that this task handles.
    static CURRENT: Entry;
}

/// What is known of a request; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry(Arc<Mutex<Facts>>);

/// Numbers and names, never text of a prompt or an answer.
#[derive(Debug, Default)]
struct Facts {
    prompt_tokens: Option<usize>,
    cached_tokens: Option<usize>,
    completion_tokens: Option<usize>,
    finish_reason: Option<&'static str>,
    kv_preset: Option<String>,
    kv_keys: Option<String>,
    kv_values: Option<String>,
    kv_bytes: Option<u64>,
    queue_seconds: Option<f64>,
    first_token_seconds: Option<f64>,
    error: Option<&'static str>,
    cancelled: bool,
}

impl Entry {
    /// That of the request which the current task handles; one that nobody reads if there is none.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first token is there.
    pub(crate) fn begun(&self, prompt_tokens: usize, queue_seconds: f64, first_token_seconds: f64) {
        let mut facts = self.facts();
        facts.prompt_tokens = Some(prompt_tokens);
        facts.queue_seconds.get_or_insert(queue_seconds);
        facts.first_token_seconds.get_or_insert(first_token_seconds);
    }

    /// An answer is complete. Where a request has several, their tokens and bytes add up.
    pub(crate) fn finished(&self, reason: &'static str, usage: &Usage) {
        let mut facts = self.facts();
        facts.prompt_tokens = Some(usage.prompt_tokens);
        facts.cached_tokens = Some(usage.cached_tokens);
        facts.completion_tokens = Some(facts.completion_tokens.unwrap_or(0) + usage.completion_tokens);
        facts.kv_bytes = Some(facts.kv_bytes.unwrap_or(0) + usage.kv_cache.bytes);
        facts.kv_preset = Some(usage.kv_cache.preset.clone());
        facts.kv_keys = Some(usage.kv_cache.keys.clone());
        facts.kv_values = Some(usage.kv_cache.values.clone());
        facts.finish_reason = Some(reason);
    }

    /// It failed after its answer had begun, or before.
    pub(crate) fn failed(&self, code: &'static str) {
        self.facts().error = Some(code);
    }

    /// Whoever asked went away.
    pub(crate) fn cancelled(&self) {
        self.facts().cancelled = true;
    }
}

/// Keeps an entry for a request from here to the end of its answer. There are no metrics before there is a model.
pub(crate) async fn keep(State(metrics): State<Option<Metrics>>, request: Request, next: Next) -> Response {
    let entry = Entry::default();
    let mut line = Line {
        entry: entry.clone(),
        metrics,
        started: Instant::now(),
        span: Span::current(),
        is_probe: PROBES.contains(&request.uri().path()),
        status: None,
        code: None,
    };
    let response = CURRENT.scope(entry, next.run(request)).await;
    line.status = Some(response.status());
    line.code = response.extensions().get().map(|ErrorCode(code)| *code);
    response.map(|body| Body::new(LoggedBody { body, _line: line }))
}

/// The line that is written when this is dropped.
struct Line {
    entry: Entry,
    metrics: Option<Metrics>,
    started: Instant,
    span: Span,
    is_probe: bool,
    /// None if the client went away before there was an answer.
    status: Option<StatusCode>,
    /// Of the error that the answer is.
    code: Option<&'static str>,
}

/// Fields that the span gets for those who collect spans.
pub(crate) const SPAN_FIELDS: [&str; 4] = ["status", "prompt_tokens", "completion_tokens", "finish_reason"];

impl Drop for Line {
    fn drop(&mut self) {
        let facts = self.entry.facts();
        let error = self.code.or(facts.error);
        let cancelled = facts.cancelled || self.status.is_none();
        if let Some(metrics) = &self.metrics {
            if let Some(code) = error {
                metrics.failed(code);
            }
            if cancelled {
                metrics.cancelled();
            }
        }
        let status = self.status.map(|status| status.as_u16());
        let seconds = Some(rounded(self.started.elapsed().as_secs_f64()));
        let cancelled = cancelled.then_some(true);
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    parent: &self.span,
                    status,
                    seconds,
                    queue_seconds = facts.queue_seconds.map(rounded),
                    first_token_seconds = facts.first_token_seconds.map(rounded),
                    prompt_tokens = facts.prompt_tokens,
                    cached_tokens = facts.cached_tokens,
                    completion_tokens = facts.completion_tokens,
                    finish_reason = facts.finish_reason,
                    kv_preset = facts.kv_preset,
                    kv_keys = facts.kv_keys,
                    kv_values = facts.kv_values,
                    kv_bytes = facts.kv_bytes,
                    error,
                    cancelled,
                    "answered"
                )
            };
        }
        if self.is_probe {
            tell!(debug);
        } else {
            tell!(info);
        }
        let [status_field, prompt, completion, reason] = SPAN_FIELDS;
        self.span.record(status_field, status);
        self.span.record(prompt, facts.prompt_tokens);
        self.span.record(completion, facts.completion_tokens);
        self.span.record(reason, facts.finish_reason);
    }
}

/// To milliseconds, as nobody reads more.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// An answer's body with the line that its end writes.
struct LoggedBody {
    body: Body,
    _line: Line,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
