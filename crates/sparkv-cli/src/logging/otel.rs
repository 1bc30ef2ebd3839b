//! Spans over OTLP and HTTP to an OpenTelemetry collector, set up by OpenTelemetry's own variables.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;

use super::AnyLayer;

/// What this is called among services, unless [`SERVICE_NAME`] says otherwise.
const NAME: &str = "sparkv";

/// The variable for it.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Sends spans in batches, on a thread of its own; what is left when it is dropped.
pub(super) struct Spans(SdkTracerProvider);

/// Begins to collect.
///
/// # Errors
/// If a variable of OpenTelemetry has a value that cannot be.
pub(super) fn start() -> anyhow::Result<Spans> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let mut resource = Resource::builder();
    if std::env::var_os(SERVICE_NAME).is_none() {
        resource = resource.with_service_name(NAME);
    }
    let provider =
        SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    Ok(Spans(provider))
}

impl Spans {
    /// What passes spans on.
    pub(super) fn layer(&self) -> AnyLayer {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer(NAME)).boxed()
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // A collector that is gone is no reason to end otherwise.
        let _ = self.0.shutdown();
    }
}

/// Makes `span` part of the trace that `parent` names, a W3C `traceparent`.
pub(super) fn adopt(span: &Span, parent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
    // Fails where no spans are collected.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}
