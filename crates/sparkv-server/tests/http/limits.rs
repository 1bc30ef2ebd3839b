//! What a connection may take, and that it takes nothing from others.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use sparkv_server::{Connections, Drained, HttpServer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::socket::{Running, until};
use crate::support::*;

const SHORT: Duration = Duration::from_millis(300);

fn impatient() -> Connections {
    Connections { head_timeout: SHORT, ..Connections::default() }
}

/// All that the server sends until it closes the connection.
async fn to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let server = Running::start_at(Setup::default(), impatient()).await;
    for begun in ["", "GET /health HTTP/1.1\r\nhost: a\r\nx-slow: "] {
        let start = Instant::now();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let drip = async {
            // A byte now and then does not help.
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let end = async {
            let mut rest = Vec::new();
            // A reset is an end, too.
            let _ = reading.read_to_end(&mut rest).await;
        };
        if begun.is_empty() {
            end.await;
        } else {
            tokio::select! { () = drip => {}, () = end => {} }
        }
        assert!(start.elapsed() >= SHORT, "{begun:?}: after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(20), "{begun:?}: after {:?}", start.elapsed());
        assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    }
}

#[tokio::test]
async fn an_answer_may_take_longer_than_a_head() {
    let server = Running::start_at(Setup::default(), impatient()).await;
    server.probe.gate().close();
    let streamed = server.chat(&chat_body(json!({ "stream": true, "ignore_eos": true }))).await;
    tokio::time::sleep(2 * SHORT).await;
    server.probe.gate().open();
    assert!(streamed.text().await.unwrap().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn heads_are_bounded() {
    let connections = Connections { head_limit: 4096, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    let headers = |count: usize| (0..count).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    for (head, expected) in [
        (format!("x: {}\r\n", "a".repeat(3000)), "HTTP/1.1 200"),
        (format!("x: {}\r\n", "a".repeat(8000)), "HTTP/1.1 431"),
        (headers(90), "HTTP/1.1 200"),
        (headers(101), "HTTP/1.1 431"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = to_end(&mut stream).await;
        assert!(reply.starts_with(expected), "{} bytes: {reply}", head.len());
    }
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_a_slot() {
    let connections = Connections { max: 2, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
        idle.push(stream);
    }
    let third = tokio::spawn(reqwest::get(server.url("/health")));
    tokio::time::sleep(SHORT).await;
    assert!(!third.is_finished(), "two is the limit");
    idle.pop();
    assert_eq!(third.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn half_open_connections_cost_nothing_but_their_slots() {
    let server = Running::start_at(Setup::default(), impatient()).await;
    let mut idle = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if i % 2 == 0 {
            stream.write_all(b"POST /v1/completions HTTP/1.1\r\n").await.unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    server.stop.send(()).unwrap();
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn the_engine_does_not_wait_for_a_slow_reader() {
    let (server, engine, probe) = Setup::default().server();
    let routes = server.router();
    let body = completion_body(json!({ "stream": true, "ignore_eos": true, "max_tokens": 200 }));
    let request = axum::http::Request::post("/v1/completions")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    // Nobody reads its body.
    let unread = routes.clone().oneshot(request).await.unwrap();
    until("the engine is through", || engine.stats().generated_tokens == 200 && probe.live_caches() == 0)
        .await;
    assert_eq!(complete(&routes, &completion_body(json!({}))).await.status, 200);
    let text = axum::body::to_bytes(unread.into_body(), usize::MAX).await.unwrap();
    assert!(text.ends_with(b"data: [DONE]\n\n"), "all of it was kept");
}

#[tokio::test]
async fn it_listens_before_there_is_anything_to_serve() {
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = HttpServer::start(listener, Connections::default());
    // One connection for all of it.
    let client = Client::builder().pool_max_idle_per_host(1).build().unwrap();
    let get = async |path: &str| client.get(format!("http://{address}{path}")).send().await.unwrap();
    assert_eq!(get("/health").await.status(), 200);
    for path in ["/ready", "/v1/models", "/metrics", "/nowhere"] {
        let reply = get(path).await;
        assert_eq!((path, reply.status().as_u16()), (path, 503));
        assert_eq!(reply.headers()["retry-after"], "1");
        assert!(reply.headers().contains_key("x-request-id"));
        let error = reply.json::<Value>().await.unwrap();
        assert_eq!(error["error"]["code"], "loading", "{error}");
        assert!(error["error"]["message"].as_str().unwrap().starts_with("loading"), "{error}");
    }
    let body = chat_body(json!({}));
    let post = async || client.post(format!("http://{address}/v1/chat/completions")).json(&body).send().await;
    assert_eq!(post().await.unwrap().status(), 503);
    let (server, _engine, _probe) = Setup::default().server();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.serve_at(listening, async {
        let _ = stopped.await;
    });
    assert_eq!(get("/ready").await.status(), 200, "at once");
    let ended = tokio::spawn(serving);
    assert_eq!(post().await.unwrap().status(), 200);
    stop.send(()).unwrap();
    assert_eq!(ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn a_server_that_never_came_to_serve_closes_its_connections() {
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = HttpServer::start(listener, Connections::default());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
    drop(listening);
    assert_eq!(to_end(&mut stream).await, "");
}
