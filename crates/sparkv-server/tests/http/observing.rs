//! What operators see of requests: histograms, counters, and a line in the log.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;

use crate::operations::value;
use crate::support::*;

const MODEL: &str = r#"{model_name="org/fake"}"#;

async fn metrics(routes: &Router) -> String {
    get(routes, "/metrics").await.text
}

#[tokio::test]
async fn latencies_are_observed_under_both_names() {
    let delay = Duration::from_millis(3);
    let fake = sparkv_models::fake::FakeConfig { delay, ..Default::default() };
    let routes = Setup { fake, ..Setup::default() }.routes();
    for stream in [false, true] {
        let extra = json!({ "stream": stream, "ignore_eos": true, "max_tokens": 10 });
        assert_eq!(complete(&routes, &completion_body(extra)).await.status, StatusCode::OK);
    }
    let text = metrics(&routes).await;
    for (prefix, labels) in [("sparkv_", ""), ("vllm:", MODEL)] {
        let get = |name: &str| value(&text, &format!("{prefix}{name}{labels}"));
        for (histogram, count, least) in [
            ("time_to_first_token_seconds", 2.0, 0.006),
            ("inter_token_latency_seconds", 18.0, 0.05),
            ("e2e_request_latency_seconds", 2.0, 0.06),
            ("request_queue_time_seconds", 2.0, 0.0),
        ] {
            assert_eq!(get(&format!("{histogram}_count")), count, "{histogram}");
            let sum = get(&format!("{histogram}_sum"));
            assert!(sum >= least && sum < 60.0, "{histogram}: {sum}");
        }
        assert_eq!(get("generation_tokens_total"), 20.0);
        // <s>hello, twice.
        assert_eq!(get("prompt_tokens_total"), 12.0);
        let whole = get("e2e_request_latency_seconds_sum");
        let parts = get("time_to_first_token_seconds_sum") + get("inter_token_latency_seconds_sum");
        assert!((whole - parts).abs() < 1e-6, "{whole} is not {parts}");
    }
    let labels = r#"{finished_reason="length",model_name="org/fake"}"#;
    let swapped = r#"{model_name="org/fake",finished_reason="length"}"#;
    let success = |labels: &str| format!("vllm:request_success_total{labels} 2");
    assert!(text.contains(&success(labels)) || text.contains(&success(swapped)), "{text}");
}

#[tokio::test]
async fn requests_and_bytes_are_counted_by_preset_and_errors_by_code() {
    let routes = Setup::default().routes();
    for kv in [json!({ "preset": "mine" }), json!({ "precision": "f32" }), Value::Null, Value::Null] {
        let reply = complete(&routes, &completion_body(json!({ "kv_cache": kv }))).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    for _ in 0..2 {
        assert_eq!(get(&routes, "/nowhere").await.status, StatusCode::NOT_FOUND);
    }
    let text = metrics(&routes).await;
    for (preset, count) in [("mine", 1.0), ("custom", 1.0), ("exact", 2.0)] {
        assert_eq!(value(&text, &format!("sparkv_preset_requests_total{{preset=\"{preset}\"}}")), count);
    }
    let bytes = value(&text, "sparkv_preset_kv_bytes_total{preset=\"custom\"}");
    let dense = value(&text, "sparkv_preset_kv_dense_bytes_total{preset=\"custom\"}");
    assert!(bytes >= 2.0 * dense && dense > 0.0, "f32 takes twice what f16 does: {bytes}, {dense}");
    assert_eq!(value(&text, "sparkv_errors_total{code=\"unknown_url\"}"), 2.0);
}

#[tokio::test]
async fn an_error_within_a_stream_and_a_client_that_leaves_are_counted() {
    let fake = sparkv_models::fake::FakeConfig { delay: Duration::from_millis(5), ..Default::default() };
    let setup = Setup { fake, request_timeout: Some(Duration::from_millis(100)), ..Setup::default() };
    let (server, engine, _probe) = setup.server();
    let routes = server.router();
    let long = completion_body(json!({ "max_tokens": 200, "ignore_eos": true, "stream": true }));
    assert_eq!(complete(&routes, &long).await.status, StatusCode::OK);
    assert_eq!(value(&metrics(&routes).await, "sparkv_errors_total{code=\"deadline_exceeded\"}"), 1.0);
    let request = Request::post("/v1/completions").header("content-type", "application/json");
    let response = routes.clone().oneshot(request.body(Body::from(long.to_string())).unwrap()).await.unwrap();
    let mut pieces = response.into_body().into_data_stream();
    pieces.next().await.unwrap().unwrap();
    assert!(value(&metrics(&routes).await, "sparkv_requests_running") <= 1.0);
    drop(pieces);
    assert_eq!(value(&metrics(&routes).await, "sparkv_requests_cancelled_total"), 1.0);
    drop(engine);
}

#[tokio::test]
async fn what_running_requests_hold_is_shown_beside_what_they_would_hold_dense() {
    let (server, engine, probe) = Setup::default().server();
    let routes = server.router();
    probe.gate().close();
    probe.gate().allow(4);
    let body =
        completion_body(json!({ "max_tokens": 60, "ignore_eos": true, "kv_cache": { "precision": "f32" } }));
    let running = tokio::spawn({
        let routes = routes.clone();
        async move { complete(&routes, &body).await.status }
    });
    while engine.stats().kv_dense_bytes == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let text = metrics(&routes).await;
    let (active, dense) =
        (value(&text, "sparkv_kv_cache_active_bytes"), value(&text, "sparkv_kv_cache_dense_bytes"));
    assert!(active >= 2.0 * dense, "f32 takes twice what f16 does: {active}, {dense}");
    probe.gate().open();
    assert_eq!(running.await.unwrap(), StatusCode::OK);
}

/// What is logged while it lives, by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin(level: &str) -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter(EnvFilter::new(level))
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that tell of requests' ends.
    fn answered(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["fields"]["message"] == "answered").collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_leaves_one_line_with_what_it_cost() {
    let (log, _guard) = Log::begin("info");
    let routes = Setup::default().routes();
    for stream in [false, true] {
        let body = completion_body(json!({ "stream": stream, "ignore_eos": true }));
        let request = Request::post("/v1/completions")
            .header("content-type", "application/json")
            .header("x-request-id", "given")
            .body(Body::from(body.to_string()))
            .unwrap();
        assert_eq!(send(&routes, request).await.status, StatusCode::OK);
    }
    assert_eq!(get(&routes, "/health").await.status, StatusCode::OK);
    assert_eq!(get(&routes, "/nowhere").await.status, StatusCode::NOT_FOUND);
    let lines = log.answered();
    assert_eq!(lines.len(), 3, "probes are not told at this level: {lines:?}");
    for line in &lines[..2] {
        let (fields, span) = (&line["fields"], &line["span"]);
        assert_eq!((&span["id"], &span["path"]), (&json!("given"), &json!("/v1/completions")));
        assert_eq!((&fields["status"], &fields["finish_reason"]), (&json!(200), &json!("length")));
        assert_eq!((&fields["prompt_tokens"], &fields["completion_tokens"]), (&json!(6), &json!(12)));
        assert_eq!(fields["kv_preset"], "exact");
        assert!(fields["kv_bytes"].as_u64().unwrap() > 0);
        assert!(fields["seconds"].is_f64() && fields["first_token_seconds"].is_f64(), "{fields}");
        assert!(fields.get("error").is_none() && fields.get("cancelled").is_none(), "{fields}");
    }
    assert_eq!(lines[2]["fields"]["status"], 404);
    assert_eq!(lines[2]["fields"]["error"], "unknown_url");
}

#[tokio::test]
async fn what_a_refusal_quotes_is_not_logged() {
    let (log, _guard) = Log::begin("trace");
    let routes = Setup::default().routes();
    for body in [
        r#"{"prompt": "s3cret words", "temperature": "s3cret"}"#,
        r#"{"prompt": {"s3cret": 1}}"#,
        r#"{"prompt": "s3cret", "s3cret": 1}"#,
        r#"s3cret"#,
        r#"{"prompt": "x", "model": "s3cret"}"#,
        r#"{"prompt": "x", "kv_cache": {"preset": "s3cret"}}"#,
    ] {
        assert!(post(&routes, "/v1/completions", body).await.status.is_client_error(), "{body}");
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("request refused") && text.contains("temperature"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}
