//! What operators see: metrics, memory, time limits, an engine that is gone.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;
use sparkv_engine::EngineConfig;
use sparkv_models::fake::FakeConfig;
use sparkv_server::{Drained, Server};
use tokio::sync::oneshot;

use crate::support::*;

fn engine() -> EngineConfig {
    EngineConfig { max_running: NonZeroUsize::new(4).unwrap(), ..EngineConfig::default() }
}

/// The value of a metric, with its labels as they are written.
pub(crate) fn value(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.split_once(' '));
    let (_, value) =
        lines.clone().find(|(key, _)| *key == name).unwrap_or_else(|| panic!("{name}: {metrics}"));
    value.parse().unwrap()
}

#[tokio::test]
async fn metrics_tell_what_is_held_and_what_was_found() {
    let setup = Setup { engine: EngineConfig { kv_memory: 1 << 20, ..engine() }, ..Setup::default() };
    let (server, engine, probe) = setup.server();
    let routes = server.router();
    let prompt = "a prompt of forty-eight tokens and a few more, so";
    let body = completion_body(json!({ "prompt": prompt, "max_tokens": 2, "ignore_eos": true }));
    let first = complete(&routes, &body).await.json();
    assert_eq!(first.pointer("/usage/prompt_tokens_details/cached_tokens"), Some(&json!(0)));
    let second = complete(&routes, &body).await.json();
    assert_eq!(second.pointer("/usage/prompt_tokens_details/cached_tokens"), Some(&json!(48)));
    assert_eq!(first["choices"][0]["text"], second["choices"][0]["text"]);
    while engine.stats().kv_active_bytes > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let reply = get(&routes, "/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(value(&reply.text, "sparkv_requests_running"), 0.0);
    assert_eq!(value(&reply.text, "vllm:num_requests_waiting{model_name=\"org/fake\"}"), 0.0);
    assert_eq!(value(&reply.text, "sparkv_kv_cache_dense_bytes"), 0.0);
    assert_eq!(value(&reply.text, "sparkv_kv_cache_budget_bytes"), f64::from(1 << 20));
    assert_eq!(value(&reply.text, "sparkv_kv_cache_active_bytes"), 0.0);
    assert_eq!(value(&reply.text, "sparkv_kv_cache_prefix_bytes"), probe.held_bytes() as f64);
    assert!(probe.held_bytes() > 0);
    // <s> and a token for each byte.
    assert_eq!(value(&reply.text, "sparkv_prefix_cache_queries_total"), 2.0 * (prompt.len() + 1) as f64);
    assert_eq!(value(&reply.text, "vllm:prefix_cache_hits_total{model_name=\"org/fake\"}"), 48.0);
    assert_eq!(value(&reply.text, "vllm:generation_tokens_total{model_name=\"org/fake\"}"), 4.0);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let routes = Setup::default().routes();
    let body = completion_body(json!({ "ignore_eos": true }));
    assert_eq!(complete(&routes, &body).await.status, StatusCode::OK);
    let read = async |accept: &str| {
        let request = Request::get("/metrics").header("accept", accept).body(Body::empty()).unwrap();
        send(&routes, request).await
    };
    let (new, old) = (read("application/openmetrics-text").await, read("text/plain").await);
    assert_eq!(
        new.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(new.text.ends_with("# EOF\n") && !old.text.contains("EOF"));
    for (reply, family) in [(&new, "sparkv_generation_tokens"), (&old, "sparkv_generation_tokens_total")] {
        let lines: Vec<&str> =
            reply.text.lines().filter(|line| line.contains("sparkv_generation_tokens")).collect();
        assert_eq!(
            lines,
            [
                &format!("# HELP {family} Tokens generated"),
                &format!("# TYPE {family} counter"),
                "sparkv_generation_tokens_total 12"
            ]
        );
    }
    // A family is told of once, and no sample twice.
    for reply in [&new, &old] {
        let mut keys: Vec<&str> = reply
            .text
            .lines()
            .filter(|line| line.starts_with("# TYPE ") || !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}

#[tokio::test]
async fn metrics_tell_of_the_process() {
    let routes = Setup::default().routes();
    let text = get(&routes, "/metrics").await.text;
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_virtual_memory_bytes") >= value(&text, "process_resident_memory_bytes"));
    assert!(value(&text, "process_cpu_seconds_total") >= 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value(&text, "process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&age), "{age}");
    if cfg!(target_os = "linux") {
        let open = value(&text, "process_open_fds");
        assert!(open >= 3.0 && open <= value(&text, "process_max_fds"), "{open}");
    }
    let build = text.lines().find(|line| line.starts_with("sparkv_build_info{")).unwrap();
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(build.contains(&version) && build.ends_with(" 1"), "{build}");
}

#[tokio::test]
async fn metrics_want_the_key() {
    let routes = Setup { api_keys: &["secret"], ..Setup::default() }.routes();
    assert_eq!(get(&routes, "/metrics").await.status, StatusCode::UNAUTHORIZED);
    let routes = Setup { api_keys: &["secret"], metrics_open: true, ..Setup::default() }.routes();
    assert_eq!(get(&routes, "/metrics").await.status, StatusCode::OK);
    assert_eq!(get(&routes, "/v1/models").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_memory_cannot_hold_is_a_400_that_says_what_it_can() {
    let setup = Setup { engine: EngineConfig { kv_memory: 8 << 10, ..engine() }, ..Setup::default() };
    let routes = setup.routes();
    let reply = complete(&routes, &completion_body(json!({ "max_tokens": 240 }))).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let error = &reply.json()["error"];
    assert_eq!((&error["code"], &error["param"]), (&json!("kv_memory_exceeded"), &json!("kv_cache")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("more than this server's 8.0 KiB: max_tokens of 1"), "{message}");
    assert!(message.ends_with("no preset would fit"), "rows of 8 channels compress to no less: {message}");
    assert_eq!(
        complete(&routes, &completion_body(json!({ "max_tokens": 100 }))).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_request_whose_time_is_up_ends_with_an_error() {
    let fake = FakeConfig { delay: Duration::from_millis(5), ..FakeConfig::default() };
    let setup = Setup { fake, request_timeout: Some(Duration::from_millis(100)), ..Setup::default() };
    let routes = setup.routes();
    let long = json!({ "max_tokens": 200, "ignore_eos": true });
    let reply = complete(&routes, &completion_body(long)).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(reply.json()["error"]["code"], "deadline_exceeded");
    let long = json!({ "max_tokens": 200, "ignore_eos": true, "stream": true });
    let reply = complete(&routes, &completion_body(long)).await;
    assert_eq!(reply.status, StatusCode::OK, "it had begun");
    assert!(reply.text.contains("deadline_exceeded"), "{}", reply.text);
    assert_eq!(complete(&routes, &completion_body(json!({ "max_tokens": 2 }))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_server_whose_engine_is_gone_is_not_ready_and_ends() {
    let (server, engine, _) = Setup::default().server();
    let routes = server.router();
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let (_stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    assert_eq!(get(&routes, "/ready").await.status, StatusCode::OK);
    // Nobody but its own failure ends an engine while its server runs; this looks the same from there.
    engine.shutdown();
    while engine.is_alive() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(get(&routes, "/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&routes, "/health").await.status, StatusCode::OK);
    assert_eq!(ended.await.unwrap().unwrap(), Drained::EngineLost);
}
