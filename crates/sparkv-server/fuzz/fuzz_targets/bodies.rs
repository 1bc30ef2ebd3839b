//! The first byte says which route, the others are the body: whatever they hold, there is an answer, it is no failure
//! of the server, and the server goes on.
//!
//! From `crates/sparkv-server`: `cargo +nightly fuzz run bodies fuzz/corpus/bodies fuzz/seeds -- -dict=fuzz/bodies.dict`

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use sparkv::{KvChoice, Presets};
use sparkv_engine::{EngineConfig, TextEngine, TextModel};
use sparkv_models::fake::{CHAT_TEMPLATE, FakeConfig, FakeModel, tokenizer};
use sparkv_server::{ApiKey, Policy, Server, ServerConfig, UnknownFields};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// Where bodies are sent.
const ROUTES: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("threads");
    let fake = FakeConfig { context_length: 512, ..FakeConfig::default() };
    let (model, _) = FakeModel::new(fake);
    let tokenizer = tokenizer().expect("it is fixed");
    let text = TextModel::new(tokenizer, Some(CHAT_TEMPLATE), Some("<s>"), Some("</s>"));
    let presets = Presets::built_in().expect("they are built in");
    let engine =
        TextEngine::start(model, text, EngineConfig::default(), presets.clone()).expect("a thread");
    let config = ServerConfig {
        model_name: "fake".to_owned(),
        model_aliases: Vec::new(),
        list_aliases: false,
        accept_any_model: false,
        model_path: "fake".to_owned(),
        policy: Policy {
            api_keys: [ApiKey::new("key").expect("it can be sent")].into_iter().collect(),
            default_kv: KvChoice::default(),
            presets,
        },
        unknown_fields: UnknownFields::Refuse,
        body_limit: 1 << 16,
        drain_delay: Duration::ZERO,
        drain_deadline: Duration::ZERO,
        request_timeout: Some(Duration::from_secs(20)),
        health_follows_ready: false,
        metrics_open: false,
        adopt_trace: None,
    };
    let routes = Server::new(engine, config).router();
    (runtime, routes)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&route, body)) = bytes.split_first() else { return };
    let path = ROUTES[usize::from(route) % ROUTES.len()];
    let (runtime, routes) = &*SERVER;
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", "Bearer key")
        .body(Body::from(body.to_vec()))
        .expect("its parts are fixed");
    runtime.block_on(async {
        let Ok(response) = routes.clone().oneshot(request).await;
        let status = response.status();
        let answer = to_bytes(response.into_body(), usize::MAX).await.expect("an answer is whole");
        let text = String::from_utf8(answer.to_vec()).expect("an answer is UTF-8");
        // The fake model says some tokens only; a format that needs others leaves it nothing to say.
        let speechless = text.contains("logits hold no finite number");
        assert!(!status.is_server_error() || speechless, "{path}: {status} {text}");
        assert!(!text.contains("\"server_error\"") || speechless, "{path}: {text}");
        if status.is_client_error() {
            let error: serde_json::Value = serde_json::from_str(&text).expect("an error is JSON");
            assert!(error["error"]["message"].is_string(), "{text}");
        }
    });
});
