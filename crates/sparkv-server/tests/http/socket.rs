//! What shows only over a real connection: uploads, hang-ups, queues, draining.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Client;
use serde_json::{Value, json};
use sparkv_engine::TextEngine;
use sparkv_models::fake::Probe;
use sparkv_server::{BindError, Connections, Drained, HttpServer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::*;

/// A server that listens.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) engine: TextEngine,
    pub(crate) probe: Probe,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<std::io::Result<Drained>>,
}

impl Running {
    pub(crate) async fn start(setup: Setup) -> Self {
        let (server, engine, probe) = setup.server();
        let listener = Server::bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(server.serve(listener, async {
            stopped.await.unwrap();
        }));
        Self { address, engine, probe, stop, ended }
    }

    pub(crate) async fn start_at(setup: Setup, connections: Connections) -> Self {
        let (server, engine, probe) = setup.server();
        let listener = Server::bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let listening = HttpServer::start(listener, connections);
        let ended = tokio::spawn(server.serve_at(listening, async {
            stopped.await.unwrap();
        }));
        Self { address, engine, probe, stop, ended }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn chat(&self, body: &Value) -> reqwest::Response {
        Client::new().post(self.url("/v1/chat/completions")).json(body).send().await.unwrap()
    }
}

/// Waits until `condition` holds; panics after 10 s.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn ten_megabytes_of_junk_are_refused_and_the_connection_lives() {
    let server = Running::start(Setup::default()).await;
    let client = Client::new();
    let junk = vec![b'x'; 10 << 20];
    for chunked in [false, true] {
        let body = if chunked {
            // No Content-Length.
            reqwest::Body::wrap_stream(futures::stream::iter(
                junk.chunks(1 << 16).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>(),
            ))
        } else {
            reqwest::Body::from(junk.clone())
        };
        let request =
            client.post(server.url("/v1/chat/completions")).header("content-type", "application/json");
        let reply = request.body(body).send().await.unwrap();
        assert_eq!(reply.status(), 413, "chunked: {chunked}");
        let error: Value = reply.json().await.unwrap();
        assert_eq!(error.pointer("/error/code").unwrap(), "request_too_large");
        assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_before_it_sends() {
    let server = Running::start(Setup::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
        content-length: 10485760\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = vec![0; 64];
    let length = stream.read(&mut reply).await.unwrap();
    assert!(String::from_utf8_lossy(&reply[..length]).starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_body_that_breaks_off_harms_nobody() {
    let server = Running::start(Setup::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
        content-length: 1000\r\n\r\n{\"prompt\": ";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    assert_eq!(server.probe.live_caches(), 0);
}

#[tokio::test]
async fn a_reader_that_hangs_up_frees_its_sequence() {
    for streamed in [true, false] {
        let server = Running::start(Setup::default()).await;
        // The prompt and two tokens pass, then the model stands still.
        let body = completion_body(
            json!({ "prompt": "hi", "ignore_eos": true, "stream": streamed, "max_tokens": 200 }),
        );
        server.probe.gate().close();
        server.probe.gate().allow(3);
        let request = Client::new().post(server.url("/v1/completions")).json(&body).send();
        if streamed {
            let mut pieces = request.await.unwrap().bytes_stream();
            pieces.next().await.unwrap().unwrap();
            until("the model waits", || server.probe.steps() == 4).await;
            drop(pieces);
        } else {
            let waiting = tokio::spawn(request);
            until("the model waits", || server.probe.steps() == 4).await;
            waiting.abort();
        }
        assert_eq!(server.probe.live_caches(), 1, "streamed: {streamed}");
        // The server notices at some time; then the next step ends the sequence, where many are left.
        while server.probe.live_caches() == 1 {
            server.probe.gate().allow(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(server.probe.steps() < 200, "it ran to its end");
        server.probe.gate().open();
        assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    }
}

#[tokio::test]
async fn a_full_queue_turns_away_with_a_time_to_come_back() {
    let server = Running::start(Setup { max_queue: 1, ..Setup::default() }).await;
    server.probe.gate().close();
    let mut accepted = Vec::new();
    let body = completion_body(json!({}));
    let post = || Client::new().post(server.url("/v1/completions")).json(&body).send();
    accepted.push(tokio::spawn(post()));
    until("the first runs", || server.engine.load().running == 1).await;
    accepted.push(tokio::spawn(post()));
    until("the second waits", || server.engine.load().waiting == 1).await;
    let refused = post().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    insta::assert_json_snapshot!("queue_full", refused.json::<Value>().await.unwrap());
    // What is wrong with a prompt shows when it is encoded, and one that is turned away is not.
    let broken = completion_body(json!({ "prompt": "x".repeat(300) }));
    let refused = Client::new().post(server.url("/v1/completions")).json(&broken).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    server.probe.gate().open();
    for reply in accepted {
        assert_eq!(reply.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(post().await.unwrap().status(), 200);
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let server = Running::start(Setup::default()).await;
    server.probe.gate().close();
    let body = chat_body(json!({ "stream": true, "ignore_eos": true }));
    let running = server.chat(&body).await;
    assert_eq!(running.status(), 200);
    until("it runs", || server.engine.load().running == 1).await;
    server.stop.send(()).unwrap();
    let address = server.address;
    let ready = || async move { reqwest::get(format!("http://{address}/ready")).await.unwrap() };
    while ready().await.status() != 503 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    insta::assert_json_snapshot!("draining", ready().await.json::<Value>().await.unwrap());
    let health = reqwest::get(format!("http://{address}/health")).await.unwrap();
    assert_eq!(health.status(), 200);
    let turned_away =
        Client::new().post(format!("http://{address}/v1/chat/completions")).json(&body).send().await.unwrap();
    assert_eq!(turned_away.status(), 503);
    server.probe.gate().open();
    let text = running.text().await.unwrap();
    assert!(text.contains("\"finish_reason\":\"length\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn draining_ends_at_the_deadline() {
    let server =
        Running::start(Setup { drain_deadline: Duration::from_millis(300), ..Setup::default() }).await;
    server.probe.gate().close();
    let running = server.chat(&chat_body(json!({ "stream": true }))).await;
    until("it runs", || server.engine.load().running == 1).await;
    let whole = Client::new().post(server.url("/v1/completions")).json(&completion_body(json!({}))).send();
    let waiting = tokio::spawn(whole);
    until("the other waits", || server.engine.load().waiting == 1).await;
    server.stop.send(()).unwrap();
    // The model stands still to the end; the clients hear of the end all the same.
    let text = running.text().await.unwrap();
    let [.., error, done, ""] = text.split("\n\n").collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(done, "data: [DONE]");
    let error: Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error.pointer("/error/type").unwrap(), "server_error");
    let refused = waiting.await.unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap(), error);
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::CutOff);
    server.probe.gate().open();
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let server = Running::start(Setup { drain_deadline: Duration::from_secs(600), ..Setup::default() }).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
    server.stop.send(()).unwrap();
    // Not at the deadline: that would be a cut-off.
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
    drop(idle);
}

#[tokio::test]
async fn a_port_in_use_and_a_host_that_does_not_exist() {
    let taken = Server::bind("127.0.0.1", 0).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::bind("127.0.0.1", address.port()).await.unwrap_err();
    assert!(matches!(&error, BindError::InUse { address: other } if *other == address), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
    // No resolver is asked for a name that cannot be one.
    let error = Server::bind("no\0host", 0).await.unwrap_err();
    assert!(matches!(error, BindError::UnknownHost { .. }), "{error}");
    assert!(Server::bind("localhost", 0).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_each_get_their_own_answer() {
    let server = Running::start(Setup { max_queue: 64, ..Setup::default() }).await;
    let alone = |i: usize| completion_body(json!({ "prompt": format!("prompt {i}"), "max_tokens": 20 }));
    let url = server.url("/v1/completions");
    let ask = |i: usize| {
        let request = Client::new().post(&url).json(&alone(i));
        async move {
            let answer: Value = request.send().await.unwrap().json().await.unwrap();
            answer.pointer("/choices/0/text").unwrap().as_str().unwrap().to_owned()
        }
    };
    let mut expected = Vec::new();
    for i in 0..32 {
        expected.push(ask(i).await);
    }
    let together = futures::future::join_all((0..32).map(ask)).await;
    assert_eq!(together, expected);
}
