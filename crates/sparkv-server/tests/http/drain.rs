//! A server that is told to stop while clients keep their connections: none of them loses a request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sparkv_server::{Connections, Drained, HttpServer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::socket::{Running, until};
use crate::support::*;

/// Long enough for a few requests, short enough for a test.
const DELAY: Duration = Duration::from_secs(2);

/// A connection that is kept, as that of a proxy.
struct Kept(TcpStream);

impl Kept {
    async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&mut self, head: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// Status, head and body of the next answer, which has a `content-length`.
    async fn answer(&mut self) -> (u16, String, String) {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(self.0.read_u8().await.unwrap());
        }
        let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, String::from_utf8(body).unwrap())
    }

    async fn get(&mut self, path: &str) -> (u16, String, String) {
        self.send(&format!("GET {path}"), "").await;
        self.answer().await
    }

    async fn complete(&mut self) -> (u16, String, String) {
        self.send("POST /v1/completions", &completion_body(json!({ "max_tokens": 2 })).to_string()).await;
        self.answer().await
    }

    /// Whether the server has closed it.
    async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut byte)).await, Ok(Ok(0)))
    }
}

fn closes(head: &str) -> bool {
    head.contains("\r\nconnection: close\r\n")
}

#[tokio::test]
async fn requests_are_taken_until_the_delay_has_passed_and_connections_kept() {
    let server = Running::start(Setup { drain_delay: DELAY, ..Setup::default() }).await;
    let (mut kept, mut probe, mut late) = (
        Kept::open(server.address).await,
        Kept::open(server.address).await,
        Kept::open(server.address).await,
    );
    assert_eq!((kept.complete().await.0, late.get("/health").await.0), (200, 200));
    assert_eq!(probe.get("/ready").await.0, 200);
    let told = Instant::now();
    server.stop.send(()).unwrap();
    while probe.get("/ready").await.0 == 200 {
        assert!(told.elapsed() < DELAY / 2, "not ready at once");
    }
    let (status, head, body) = probe.get("/ping").await;
    assert_eq!((status, closes(&head)), (503, false), "{head}");
    assert!(body.contains("\"unavailable\"") && head.contains("retry-after: 1"), "{head}{body}");
    assert_eq!(probe.get("/health").await.0, 200);
    // A balancer that has not noticed yet goes on, by old connections and new ones.
    for _ in 0..3 {
        let (status, head, _) = kept.complete().await;
        assert_eq!((status, closes(&head)), (200, false), "{head}");
    }
    assert_eq!(Kept::open(server.address).await.complete().await.0, 200);
    // One that runs when the delay ends is answered in full, and its connection closed in order.
    server.probe.gate().close();
    let whole = completion_body(json!({ "ignore_eos": true }));
    kept.send("POST /v1/completions", &whole.to_string()).await;
    until("it runs", || server.engine.load().running == 1).await;
    assert!(told.elapsed() < DELAY, "the test was too slow");
    tokio::time::sleep(DELAY.saturating_sub(told.elapsed()) + Duration::from_millis(300)).await;
    let (status, head, body) = late.complete().await;
    assert_eq!((status, closes(&head)), (503, true), "{head}");
    assert!(head.contains("retry-after: 1") && body.contains("shutting down"), "{head}{body}");
    assert!(late.is_closed().await);
    let (status, head, _) = probe.get("/health").await;
    assert_eq!((status, closes(&head)), (200, true), "every answer, that of a probe, too: {head}");
    server.probe.gate().open();
    let (status, head, body) = kept.answer().await;
    assert_eq!((status, closes(&head)), (200, true), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["usage"]["completion_tokens"], 12);
    assert!(kept.is_closed().await);
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn without_a_delay_new_requests_are_refused_at_once() {
    let server = Running::start(Setup::default()).await;
    let mut kept = Kept::open(server.address).await;
    assert!(!closes(&kept.complete().await.1));
    server.probe.gate().close();
    let mut running = Kept::open(server.address).await;
    running.send("POST /v1/completions", &completion_body(json!({})).to_string()).await;
    until("it runs", || server.engine.load().running == 1).await;
    server.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (status, head, _) = kept.complete().await;
    assert_eq!((status, closes(&head)), (503, true), "{head}");
    server.probe.gate().open();
    let (status, head, _) = running.answer().await;
    assert_eq!((status, closes(&head)), (200, true), "{head}");
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn an_engine_that_is_lost_in_the_delay_ends_the_server() {
    let server = Running::start(Setup { drain_delay: Duration::from_secs(600), ..Setup::default() }).await;
    server.stop.send(()).unwrap();
    let address = server.address;
    let ready = || async { Kept::open(address).await.get("/ready").await.0 };
    while ready().await == 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.engine.shutdown();
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::EngineLost);
}

#[tokio::test]
async fn health_follows_readiness_where_the_operator_says_so() {
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let health = || async { reqwest::get(&url).await.unwrap().status().as_u16() };
    let connections = Connections { health_follows_ready: true, ..Connections::default() };
    let listening = HttpServer::start(listener, connections);
    assert_eq!(health().await, 503, "while the model is loaded");
    let setup = Setup { health_follows_ready: true, drain_delay: DELAY, ..Setup::default() };
    let (server, _engine, _probe) = setup.server();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = tokio::spawn(server.serve_at(listening, async {
        let _ = stopped.await;
    }));
    assert_eq!(health().await, 200);
    stop.send(()).unwrap();
    tokio::time::sleep(DELAY / 4).await;
    assert_eq!(health().await, 503, "while requests are still taken");
    assert_eq!(ended.await.unwrap().unwrap(), Drained::Complete);
}

/// Those that have just connected, and those that wait in the system's queue for others to leave.
#[tokio::test]
async fn who_has_connected_before_the_end_is_answered() {
    let server = Running::start(Setup::default()).await;
    let mut fresh = Kept::open(server.address).await;
    server.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (status, head, _) = fresh.get("/v1/models").await;
    assert!(status == 200 && head.contains("connection: close"), "{status} {head}");
    assert!(fresh.is_closed().await);
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);

    let one = Connections { max: 1, ..Connections::default() };
    let server = Running::start_at(Setup::default(), one).await;
    let mut first = Kept::open(server.address).await;
    assert_eq!(first.get("/health").await.0, 200);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut kept = Kept::open(server.address).await;
        kept.send("POST /v1/completions", &completion_body(json!({})).to_string()).await;
        waiting.push(kept);
    }
    server.stop.send(()).unwrap();
    for kept in &mut waiting {
        assert_eq!(kept.answer().await.0, 503);
    }
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}
