//! A server over the fake model, and ways to talk to it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Once;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use sparkv::{KvOptions, Presets};
use sparkv_engine::{EngineConfig, TextEngine, TextModel};
use sparkv_models::fake::{CHAT_TEMPLATE, FakeConfig, FakeModel, Probe, tokenizer};
use sparkv_server::{ApiKey, Policy, Server, ServerConfig, UnknownFields};
use tower::ServiceExt;

/// What a test may want to be different.
pub(crate) struct Setup {
    pub(crate) fake: FakeConfig,
    pub(crate) chat_template: Option<&'static str>,
    pub(crate) max_queue: usize,
    pub(crate) api_keys: &'static [&'static str],
    pub(crate) default_kv: KvOptions,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) engine: EngineConfig,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) unknown_fields: UnknownFields,
    pub(crate) health_follows_ready: bool,
    pub(crate) metrics_open: bool,
    /// Names in place of the model's own.
    pub(crate) served_names: &'static [&'static str],
    pub(crate) accept_any_model: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            fake: FakeConfig::default(),
            chat_template: Some(CHAT_TEMPLATE),
            max_queue: 8,
            api_keys: &[],
            default_kv: KvOptions::default(),
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::from_secs(20),
            engine: EngineConfig {
                max_running: NonZeroUsize::MIN,
                prefix_cache: false,
                ..EngineConfig::default()
            },
            request_timeout: None,
            unknown_fields: UnknownFields::Refuse,
            health_follows_ready: false,
            metrics_open: false,
            served_names: &[],
            accept_any_model: false,
        }
    }
}

/// A place in the code that logs is asked once whether anybody wants to hear of it. Tests listen to their own thread
/// and run beside each other, so one that listens might come too late for a place that another has just passed; with
/// this, somebody always wants to hear.
fn hear_everything() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that somebody listens to everything already.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    });
}

impl Setup {
    pub(crate) fn server(self) -> (Server, TextEngine, Probe) {
        hear_everything();
        let (model, probe) = FakeModel::new(self.fake);
        let text = TextModel::new(tokenizer().unwrap(), self.chat_template, Some("<s>"), Some("</s>"));
        let max_queue = NonZeroUsize::new(self.max_queue).unwrap();
        let small =
            KvOptions { precision: Some(sparkv::settings::Precision::Int8.into()), ..KvOptions::default() };
        let presets =
            Presets::built_in().unwrap().with(BTreeMap::from([("mine".to_owned(), small)])).unwrap();
        let engine_config = EngineConfig { max_queue, ..self.engine };
        let engine = TextEngine::start(model, text, engine_config, presets.clone()).unwrap();
        let names = if self.served_names.is_empty() { &["org/fake", "fake"] } else { self.served_names };
        let config = ServerConfig {
            model_name: names[0].to_owned(),
            model_aliases: names[1..].iter().map(|&name| name.to_owned()).collect(),
            list_aliases: !self.served_names.is_empty(),
            accept_any_model: self.accept_any_model,
            model_path: "/models/fake".to_owned(),
            policy: Policy {
                api_keys: self.api_keys.iter().map(|key| ApiKey::new(*key).unwrap()).collect(),
                default_kv: presets.resolve(&self.default_kv).unwrap(),
                presets,
            },
            unknown_fields: self.unknown_fields,
            body_limit: 1 << 20,
            drain_delay: self.drain_delay,
            drain_deadline: self.drain_deadline,
            request_timeout: self.request_timeout,
            health_follows_ready: self.health_follows_ready,
            metrics_open: self.metrics_open,
            adopt_trace: None,
        };
        (Server::new(engine.clone(), config), engine, probe)
    }

    pub(crate) fn routes(self) -> Router {
        self.server().0.router()
    }
}

/// A response that was read to its end.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) async fn send(routes: &Router, request: Request<Body>) -> Reply {
    let response = routes.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Reply { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

pub(crate) async fn get(routes: &Router, path: &str) -> Reply {
    send(routes, Request::get(path).body(Body::empty()).unwrap()).await
}

/// Posts bytes that claim to be JSON.
pub(crate) async fn post(routes: &Router, path: &str, body: impl Into<Body>) -> Reply {
    let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
    send(routes, request).await
}

pub(crate) async fn chat(routes: &Router, body: &Value) -> Reply {
    post(routes, "/v1/chat/completions", body.to_string()).await
}

pub(crate) async fn complete(routes: &Router, body: &Value) -> Reply {
    post(routes, "/v1/completions", body.to_string()).await
}

/// A body with one message, greedy and short, and `extra` fields.
pub(crate) fn chat_body(extra: Value) -> Value {
    with(
        json!({ "messages": [{ "role": "user", "content": "hello" }], "temperature": 0, "max_tokens": 12 }),
        extra,
    )
}

/// A body with a prompt, greedy and short, and `extra` fields.
pub(crate) fn completion_body(extra: Value) -> Value {
    with(json!({ "prompt": "hello", "temperature": 0, "max_tokens": 12 }), extra)
}

pub(crate) fn with(mut body: Value, extra: Value) -> Value {
    let extra = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(extra);
    body
}

/// The data of all events; panics unless `[DONE]` comes last, once.
pub(crate) fn chunks(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut events: Vec<&str> =
        reply.text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// Replaces what differs from run to run.
pub(crate) fn redact(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        for (name, field) in fields {
            match name.as_str() {
                "id" if field.as_str().is_some_and(|id| id.contains("cmpl-")) => {
                    let id = field.as_str().unwrap();
                    let (prefix, random) = id.split_once('-').unwrap();
                    assert_eq!(random.len(), 32);
                    *field = json!(format!("{prefix}-[uuid]"));
                }
                "created" => {
                    assert!(field.as_u64().unwrap() > 1_700_000_000);
                    *field = json!("[time]");
                }
                _ => {}
            }
        }
    }
    value
}

/// The named events of a stream, with their data, whose type is the same name.
pub(crate) fn named_events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    reply.text.split("\n\n").filter(|text| !text.is_empty()).map(event).collect()
}

/// Replaces what differs from run to run, at any depth: random ids and times. Sorts fields, whose order depends on
/// what else is built.
pub(crate) fn redact_all(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in &mut *fields {
                let is_random = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let is_call = field.as_str().is_some_and(|text| text.len() == 9 && is_random(text));
                let id = field.as_str().and_then(|text| text.rsplit_once('_'));
                match (name.as_str(), id) {
                    ("id" | "item_id" | "call_id", Some((prefix, random)))
                        if random.len() == 32 && is_random(random) =>
                    {
                        *field = json!(format!("{prefix}_[uuid]"));
                    }
                    ("id" | "call_id", None) if is_call => *field = json!("[call]"),
                    ("created_at" | "completed_at", _) if !field.is_null() => {
                        assert!(field.as_u64().unwrap() > 1_700_000_000);
                        *field = json!("[time]");
                    }
                    _ => *field = redact_all(field.take()),
                }
            }
            fields.sort_keys();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = redact_all(item.take())),
        _ => {}
    }
    value
}

/// A model whose context has room for descriptions of tools, and that may break lines, as calls of tools do.
pub(crate) fn talkative() -> FakeConfig {
    let says = sparkv_models::fake::BYTE_OFFSET + 0x0a..sparkv_models::fake::BYTE_OFFSET + 0x7f;
    FakeConfig { context_length: 4096, says, ..FakeConfig::default() }
}
