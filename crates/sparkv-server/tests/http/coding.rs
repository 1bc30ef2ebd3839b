//! Bodies that come compressed.

use std::io::Write;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use crate::support::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn complete_with(routes: &Router, coding: &str, body: Vec<u8>) -> Reply {
    let request = Request::post("/v1/completions")
        .header("content-type", "application/json")
        .header("content-encoding", coding)
        .body(Body::from(body))
        .unwrap();
    send(routes, request).await
}

#[tokio::test]
async fn compressed_bodies_are_answered_as_others_are() {
    let routes = Setup::default().routes();
    let body = completion_body(json!({ "seed": 1 })).to_string().into_bytes();
    let plain = complete_with(&routes, "identity", body.clone()).await.json();
    for (coding, body) in
        [("gzip", gzip(&body)), ("GZIP", gzip(&body)), ("x-gzip", gzip(&body)), ("deflate", deflate(&body))]
    {
        let reply = complete_with(&routes, coding, body).await;
        assert_eq!(reply.status, 200, "{coding}: {}", reply.text);
        assert_eq!(reply.json()["choices"], plain["choices"], "{coding}");
    }
}

#[tokio::test]
async fn no_more_is_unpacked_than_a_body_may_have() {
    let routes = Setup::default().routes();
    // The limit is 1 MiB; this is 200 MiB of spaces, in some 200 KiB.
    let bomb = gzip(&vec![b' '; 200 << 20]);
    assert!(bomb.len() < 1 << 20);
    let reply = complete_with(&routes, "gzip", bomb).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (413, &json!("request_too_large")));
    let most = [b"{\"prompt\": \"a\", \"max_tokens\": 1}".to_vec(), vec![b' '; 1 << 20]].concat();
    assert_eq!(complete_with(&routes, "deflate", deflate(&most[..1 << 20])).await.status, 200);
    assert_eq!(complete_with(&routes, "deflate", deflate(&most[..(1 << 20) + 1])).await.status, 413);
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_refused_with_what_can() {
    let routes = Setup::default().routes();
    let body = completion_body(json!({})).to_string().into_bytes();
    for coding in ["br", "zstd", "gzip, gzip", "gzip, br"] {
        let reply = complete_with(&routes, coding, body.clone()).await;
        assert_eq!(reply.status, 415, "{coding}");
        assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate"));
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("`Content-Encoding: {coding}`")), "{message}");
        assert!(message.ends_with("gzip, deflate"), "{message}");
    }
    let packed = gzip(&body);
    for broken in [body.clone(), packed[..packed.len() / 2].to_vec(), Vec::new()] {
        let reply = complete_with(&routes, "gzip", broken).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (400, &json!("invalid_json")));
        assert!(reply.text.contains("not valid gzip"), "{}", reply.text);
    }
}
