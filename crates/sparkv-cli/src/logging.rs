//! The log, and spans for who collects them.
//!
//! The log goes to standard error, as text or as an object a line. What is logged: RUST_LOG, else [`DEFAULT_LOG`].
//! Built with the feature `otel`, and with OTEL_EXPORTER_OTLP_ENDPOINT set, spans of requests also go to an
//! OpenTelemetry collector.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::options::LogFormat;
use crate::variables;

#[cfg(feature = "otel")]
mod otel;

/// What is logged unless RUST_LOG says otherwise.
const DEFAULT_LOG: &str = "warn,sparkv=info,sparkv_server=info,sparkv_engine=info,sparkv_models=info";

/// Says where spans go, as OpenTelemetry has it.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Makes the span of a request part of its client's trace; `None` where spans are not collected.
#[cfg(feature = "otel")]
pub(crate) const ADOPT_TRACE: Option<sparkv_server::AdoptTrace> = Some(otel::adopt);
/// Makes the span of a request part of its client's trace; `None` where spans are not collected.
#[cfg(not(feature = "otel"))]
pub(crate) const ADOPT_TRACE: Option<sparkv_server::AdoptTrace> = None;

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sends what is left of spans when it is dropped.
#[must_use]
pub(crate) struct Telemetry {
    #[cfg(feature = "otel")]
    _spans: Option<otel::Spans>,
}

/// Begins to log.
///
/// # Errors
/// If spans are to be collected and cannot be.
pub(crate) fn init(format: LogFormat) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: AnyLayer = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let wanted = std::env::var_os(ENDPOINT).is_some_and(|endpoint| !endpoint.is_empty());
    let mut layers = vec![lines];
    let telemetry = collect_spans(wanted, &mut layers)?;
    // Fails where somebody else logs already, which nobody does.
    tracing_subscriber::registry().with(layers.with_filter(filter)).try_init()?;
    variables::warn(|warning| tracing::warn!("{warning}"));
    if wanted && ADOPT_TRACE.is_none() {
        tracing::warn!("{ENDPOINT} is set, but this program was built without the feature `otel`");
    }
    Ok(telemetry)
}

#[cfg(feature = "otel")]
fn collect_spans(wanted: bool, layers: &mut Vec<AnyLayer>) -> anyhow::Result<Telemetry> {
    let spans = wanted.then(otel::start).transpose()?;
    layers.extend(spans.as_ref().map(otel::Spans::layer));
    Ok(Telemetry { _spans: spans })
}

#[cfg(not(feature = "otel"))]
fn collect_spans(_wanted: bool, _layers: &mut Vec<AnyLayer>) -> anyhow::Result<Telemetry> {
    Ok(Telemetry {})
}
