//! What routers and clients of other servers ask: names, versions, probes.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use sparkv_engine::EngineConfig;

use crate::support::*;

async fn ids(routes: &axum::Router) -> Value {
    let list = get(routes, "/v1/models").await.json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect()
}

#[tokio::test]
async fn the_operator_s_names_replace_the_model_s_own() {
    let routes = Setup { served_names: &["first", "second/name"], ..Setup::default() }.routes();
    assert_eq!(ids(&routes).await, json!(["first", "second/name"]));
    for name in ["first", "second/name"] {
        let model = get(&routes, &format!("/v1/models/{name}")).await.json();
        assert_eq!((&model["id"], &model["root"]), (&json!(name), &json!("/models/fake")));
        let answer = chat(&routes, &chat_body(json!({ "model": name }))).await;
        assert_eq!((answer.status, &answer.json()["model"]), (StatusCode::OK, &json!("first")));
    }
    for name in ["org/fake", "fake", ""] {
        let refused = chat(&routes, &chat_body(json!({ "model": name }))).await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND, "{name:?}");
        let message = refused.json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains("`first`"), "{message}");
    }
    let metrics = get(&routes, "/metrics").await.text;
    assert!(metrics.contains("model_name=\"first\""), "{metrics}");
}

#[tokio::test]
async fn any_name_will_do_where_the_operator_says_so() {
    let routes = Setup { accept_any_model: true, ..Setup::default() }.routes();
    assert_eq!(ids(&routes).await, json!(["org/fake"]));
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = if path.contains("chat") { chat_body(json!({})) } else { completion_body(json!({})) };
        let answer = post(&routes, path, with(body, json!({ "model": "gpt-4o" })).to_string()).await;
        assert_eq!((answer.status, &answer.json()["model"]), (StatusCode::OK, &json!("org/fake")), "{path}");
    }
    assert_eq!(get(&routes, "/v1/models/gpt-4o").await.json()["id"], "org/fake");
}

#[tokio::test]
async fn versions_and_models_in_the_words_of_other_servers() {
    let engine = EngineConfig { kv_memory: 1 << 20, ..Setup::default().engine };
    let (server, engine, _probe) = Setup { engine, max_queue: 7, ..Setup::default() }.server();
    let routes = server.router();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(get(&routes, "/version").await.json(), json!({ "version": version }));
    let preferred = r#"{"temperature":1.0,"top_p":1.0,"top_k":0,"min_p":0.0,"repetition_penalty":1.0}"#;
    assert_eq!(
        get(&routes, "/get_model_info").await.json(),
        json!({
            "model_path": "/models/fake", "tokenizer_path": "/models/fake", "is_generation": true,
            "preferred_sampling_params": preferred,
        })
    );
    let info = get(&routes, "/get_server_info").await.json();
    let per_token = engine.info().kv_shape.dense_bytes(1);
    for (name, expected) in [
        ("served_model_name", json!("org/fake")),
        ("version", json!(version)),
        ("context_length", json!(engine.info().context_length)),
        ("max_running_requests", json!(1)),
        ("max_queued_requests", json!(7)),
        ("max_total_num_tokens", json!((1 << 20) / per_token)),
        ("dp_size", json!(1)),
    ] {
        assert_eq!(info[name], expected, "{name}: {info}");
    }
    let props = get(&routes, "/props").await.json();
    for (path, expected) in [
        ("/default_generation_settings/n_ctx", json!(engine.info().context_length)),
        ("/default_generation_settings/params/n_predict", json!(2048)),
        ("/default_generation_settings/params/temperature", json!(1.0)),
        ("/total_slots", json!(1)),
        ("/model_alias", json!("org/fake")),
        ("/model_path", json!("/models/fake")),
        ("/chat_template", json!(sparkv_models::fake::CHAT_TEMPLATE)),
        ("/bos_token", json!("<s>")),
        ("/eos_token", json!("</s>")),
        ("/build_info", json!(format!("sparkv {version}"))),
    ] {
        assert_eq!(props.pointer(path), Some(&expected), "{path}: {props}");
    }
}

#[tokio::test]
async fn probes_want_no_key_and_what_tells_of_the_model_does() {
    let routes = Setup { api_keys: &["secret"], ..Setup::default() }.routes();
    for path in ["/health", "/ready", "/ping", "/version"] {
        assert_eq!(get(&routes, path).await.status, StatusCode::OK, "{path}");
    }
    let posted = Request::post("/ping").body(Body::empty()).unwrap();
    assert_eq!(send(&routes, posted).await.status, StatusCode::OK);
    for path in ["/get_model_info", "/get_server_info", "/props", "/tokenizer_info", "/v1/models"] {
        assert_eq!(get(&routes, path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}
