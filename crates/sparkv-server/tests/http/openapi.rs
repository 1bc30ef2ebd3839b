//! /openapi.json and the routes agree.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::support::*;

async fn document(routes: &Router) -> Value {
    let reply = get(routes, "/openapi.json").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn object(value: &Value) -> Vec<(&String, &Value)> {
    value.as_object().unwrap().iter().collect()
}

async fn ask(routes: &Router, method: &str, path: &str, body: &str) -> Reply {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    send(routes, request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn every_operation_is_there_and_no_other_method() {
    let routes = Setup::default().routes();
    let document = document(&routes).await;
    let mut seen = BTreeMap::new();
    for (path, item) in object(&document["paths"]) {
        let at = path.replace("{name}", "org/fake");
        for method in ["get", "post", "put", "patch", "delete"] {
            let reply = ask(&routes, method, &at, "{}").await;
            let Some(operation) = item.get(method) else {
                assert_eq!(reply.status, 405, "{method} {path}");
                continue;
            };
            let status = reply.status.as_u16();
            assert!(status == 200 || status == 400, "{method} {path}: {status}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key(&status.to_string()), "{method} {path}: {status} is not described");
            seen.insert(format!("{method} {path}"), answers.keys().cloned().collect::<Vec<_>>());
        }
    }
    insta::assert_json_snapshot!(seen);
}

/// The fields of a request's body, by what they may be.
fn fields<'a>(document: &'a Value, path: &str) -> Vec<(&'a String, &'a Value)> {
    let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let name = body["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let schema = &document["components"]["schemas"][name];
    assert_eq!(schema["additionalProperties"], false, "{path}");
    object(&schema["properties"])
}

#[tokio::test]
async fn every_field_is_known_and_no_other() {
    let routes = Setup::default().routes();
    let document = document(&routes).await;
    let mut seen = BTreeMap::new();
    for (path, item) in object(&document["paths"]) {
        if item["post"].get("requestBody").is_none() {
            continue;
        }
        let fields = fields(&document, path);
        for (field, _) in &fields {
            // Of a type that no field has.
            let reply = ask(&routes, "post", path, &json!({ *field: [[[{ "": [] }]]] }).to_string()).await;
            let error = reply.json();
            let error = &error["error"];
            assert_eq!(reply.status, 400, "{path} {field}: {error}");
            assert_ne!(error["code"], "unknown_parameter", "{path} {field}: {error}");
        }
        let reply = ask(&routes, "post", path, &json!({ "colour": "red" }).to_string()).await;
        assert_eq!(reply.json()["error"]["param"], "colour", "{path}");
        seen.insert(path, fields.into_iter().map(|(field, _)| field.clone()).collect::<Vec<_>>());
    }
    insta::assert_json_snapshot!(seen);
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    let routes = Setup::default().routes();
    let document = document(&routes).await;
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                fields.values().for_each(|value| check(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, document)),
            _ => {}
        }
    }
    check(&document, &document);
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/health"]["get"].get("security").is_none());
    assert_eq!(document["paths"]["/metrics"]["get"]["security"], json!([{ "api_key": [] }]));
}

#[tokio::test]
async fn every_field_is_in_the_documentation() {
    let routes = Setup::default().routes();
    let document = document(&routes).await;
    let text = include_str!("../../../../docs/api.md");
    for (path, item) in object(&document["paths"]) {
        assert!(text.contains(path.as_str()) || item.get("post").is_none(), "{path}");
        if item["post"].get("requestBody").is_some() {
            for (field, _) in fields(&document, path) {
                assert!(text.contains(&format!("`{field}`")), "{path} {field}");
            }
        }
    }
}
