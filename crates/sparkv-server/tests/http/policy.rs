//! Keys, and what an operator changes while the server runs.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use sparkv::settings::Precision;
use sparkv::{KvOptions, Presets};
use sparkv_engine::EngineConfig;
use sparkv_server::{ApiKey, ApiKeys, NoKeyLeft, Policy};

use crate::support::*;

async fn status_with(routes: &Router, header: &str, value: &str) -> u16 {
    let request = Request::get("/v1/models").header(header, value).body(Body::empty()).unwrap();
    send(routes, request).await.status.as_u16()
}

fn keys(keys: &[&str]) -> ApiKeys {
    keys.iter().map(|&key| ApiKey::new(key).unwrap()).collect()
}

fn policy(api_keys: &[&str], presets: &[(&str, Precision)], default: Option<&str>) -> Policy {
    let own: BTreeMap<_, _> = presets
        .iter()
        .map(|&(name, precision)| {
            (name.to_owned(), KvOptions { precision: Some(precision.into()), ..KvOptions::default() })
        })
        .collect();
    let presets = Presets::built_in().unwrap().with(own).unwrap();
    let default = KvOptions { preset: default.map(str::to_owned), ..KvOptions::default() };
    Policy { api_keys: keys(api_keys), default_kv: presets.resolve(&default).unwrap(), presets }
}

#[tokio::test]
async fn any_key_opens_in_either_header() {
    let routes = Setup { api_keys: &["first", "second"], ..Setup::default() }.routes();
    for key in ["first", "second"] {
        assert_eq!(status_with(&routes, "authorization", &format!("Bearer {key}")).await, 200);
        assert_eq!(status_with(&routes, "x-api-key", key).await, 200);
    }
    for (header, value) in [("x-api-key", "third"), ("x-api-key", "Bearer first"), ("api-key", "first")] {
        assert_eq!(status_with(&routes, header, value).await, 401, "{header}: {value}");
    }
    let both = Request::get("/v1/models").header("authorization", "Bearer none").header("x-api-key", "first");
    assert_eq!(send(&routes, both.body(Body::empty()).unwrap()).await.status, 200);
}

#[tokio::test]
async fn keys_presets_and_the_default_change_while_it_runs() {
    let (server, _engine, probe) = Setup { api_keys: &["old"], ..Setup::default() }.server();
    let (routes, handle) = (server.router(), server.policy());
    let ask = async |key: &str, kv: Value| {
        let body = completion_body(json!({ "kv_cache": kv }));
        let request = Request::post("/v1/completions")
            .header("content-type", "application/json")
            .header("x-api-key", key)
            .body(Body::from(body.to_string()))
            .unwrap();
        send(&routes, request).await
    };
    // One that runs through the change.
    probe.gate().close();
    let running = ask("old", json!({ "preset": "mine" }));
    let mut running = std::pin::pin!(running);
    assert!(futures::poll!(&mut running).is_pending());
    handle.set(policy(&["new"], &[("added", Precision::F32)], Some("added"))).unwrap();
    probe.gate().open();
    let reply = running.await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json()["usage"]["kv_cache"]["preset"], "mine");
    assert_eq!(ask("old", Value::Null).await.status, 401);
    let reply = ask("new", Value::Null).await;
    assert_eq!(reply.json()["usage"]["kv_cache"]["preset"], "added");
    let gone = ask("new", json!({ "preset": "mine" })).await;
    assert_eq!((gone.status.as_u16(), &gone.json()["error"]["param"]), (400, &json!("kv_cache.preset")));
}

#[tokio::test]
async fn the_last_key_cannot_be_taken_away() {
    let (server, _engine, _probe) = Setup { api_keys: &["key"], ..Setup::default() }.server();
    let (routes, handle) = (server.router(), server.policy());
    assert_eq!(handle.set(policy(&[], &[("added", Precision::F32)], None)), Err(NoKeyLeft));
    assert_eq!(get(&routes, "/v1/models").await.status, 401);
    assert_eq!(status_with(&routes, "x-api-key", "key").await, 200);
    let (open, _engine, _probe) = Setup::default().server();
    open.policy().set(policy(&[], &[], None)).unwrap();
    assert_eq!(get(&open.router(), "/v1/models").await.status, 200);
    open.policy().set(policy(&["key"], &[], None)).unwrap();
    assert_eq!(get(&open.router(), "/v1/models").await.status, 401);
}

#[tokio::test]
async fn what_is_proposed_where_memory_does_not_suffice_changes_too() {
    let engine = EngineConfig { kv_memory: 8 << 10, ..Setup::default().engine };
    let (server, _engine, _probe) = Setup { engine, ..Setup::default() }.server();
    let routes = server.router();
    let large = completion_body(json!({ "max_tokens": 240, "kv_cache": { "precision": "f32" } }));
    let message = async || {
        let reply = complete(&routes, &large).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    let before = message().await;
    let streaming = KvOptions {
        eviction: serde_json::from_value(json!({ "policy": "streaming", "max_tokens": 64 })).unwrap(),
        ..KvOptions::default()
    };
    let presets =
        Presets::built_in().unwrap().with(BTreeMap::from([("short".to_owned(), streaming)])).unwrap();
    let changed = Policy { presets, ..policy(&[], &[], None) };
    server.policy().set(changed).unwrap();
    let after = message().await;
    assert!(!before.contains("`short`") && after.contains("`short` would fit"), "{before}\n{after}");
}
