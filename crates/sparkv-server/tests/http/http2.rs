//! HTTP/2 without TLS, by prior knowledge: what its connections may take, and how they end.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use serde_json::{Value, json};
use sparkv_server::{Connections, Drained};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::socket::{Running, until};
use crate::support::*;

const SHORT: Duration = Duration::from_millis(300);

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A connection, and the task that reads and writes on it.
struct Client {
    requests: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn open(address: SocketAddr) -> Self {
        Self::with(&Builder::new(), address).await
    }

    async fn with(builder: &Builder, address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        Self { requests, ended: tokio::spawn(connection) }
    }

    /// The beginning of an answer.
    async fn begin(
        &self,
        request: Request<()>,
        body: Option<&Value>,
    ) -> Result<Response<RecvStream>, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, body.is_none())?;
        if let Some(body) = body {
            stream.send_data(body.to_string().into(), true)?;
        }
        response.await
    }

    async fn complete(&self, body: &Value) -> Result<Response<RecvStream>, h2::Error> {
        let request = Request::post("http://a/v1/completions").header("content-type", "application/json");
        self.begin(request.body(()).unwrap(), Some(body)).await
    }

    async fn status(&self, path: &str) -> Result<StatusCode, h2::Error> {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        Ok(self.begin(request, None).await?.status())
    }

    /// How the connection ends, and after which time.
    async fn ended(self) -> (Result<(), h2::Error>, Duration) {
        let begun = Instant::now();
        let Self { requests, ended } = self;
        let end = timeout(LONG, ended).await.expect("it does not end").unwrap();
        drop(requests);
        (end, begun.elapsed())
    }
}

async fn text(response: Response<RecvStream>) -> String {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn one_connection_carries_many_answers() {
    let server = Running::start(Setup { max_queue: 64, ..Setup::default() }).await;
    let client = Client::open(server.address).await;
    let body =
        |i: usize| completion_body(json!({ "prompt": format!("prompt {i}"), "stream": i.is_multiple_of(2) }));
    let bodies: Vec<Value> = (0..32).map(body).collect();
    let asked = bodies.iter().map(|body| async { text(client.complete(body).await.unwrap()).await });
    for (i, answer) in futures::future::join_all(asked).await.into_iter().enumerate() {
        if i.is_multiple_of(2) {
            assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
        } else {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{answer}");
        }
    }
    assert_eq!(client.status("/ready").await.unwrap(), 200);
    drop(client);
    server.stop.send(()).unwrap();
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn an_idle_connection_ends_and_one_with_a_request_does_not() {
    let connections = Connections { head_timeout: SHORT, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    // Settings alone are no request.
    let silent = Client::open(server.address).await;
    let (_, after) = silent.ended().await;
    assert!(after > SHORT / 2, "after {after:?}");
    let client = Client::open(server.address).await;
    server.probe.gate().close();
    let body = completion_body(json!({ "stream": true, "ignore_eos": true }));
    let streamed = client.complete(&body).await.unwrap();
    tokio::time::sleep(3 * SHORT).await;
    server.probe.gate().open();
    assert!(text(streamed).await.ends_with("data: [DONE]\n\n"));
    assert_eq!(client.status("/health").await.unwrap(), 200);
    let (end, after) = client.ended().await;
    assert!(end.is_ok(), "in order: {end:?}");
    assert!(after > SHORT / 2, "after {after:?}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let connections = Connections { head_limit: 4096, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    for (count, length, expected) in [(1, 3000, 200), (1, 8000, 431), (90, 1, 200), (101, 1, 431)] {
        let client = Client::open(server.address).await;
        let mut request = Request::get("http://a/health");
        for i in 0..count {
            request = request.header(format!("x-{i}"), "a".repeat(length));
        }
        let reply = client.begin(request.body(()).unwrap(), None).await.unwrap();
        assert_eq!(reply.status(), expected, "{count} of {length}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_cut_off() {
    let connections = Connections { write_timeout: SHORT, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    let body = completion_body(json!({ "stream": true, "ignore_eos": true, "max_tokens": 200 }));
    // An answer that does not come is nothing to take.
    let client = Client::open(server.address).await;
    server.probe.gate().close();
    let late = client.complete(&body).await.unwrap();
    tokio::time::sleep(3 * SHORT).await;
    server.probe.gate().open();
    assert!(text(late).await.ends_with("data: [DONE]\n\n"));
    // The socket is read, but the answer's window stays closed.
    let closed = Client::with(Builder::new().initial_window_size(10), server.address).await;
    let unread = closed.complete(&body).await.unwrap();
    let (_, after) = closed.ended().await;
    assert!(after > SHORT / 2, "after {after:?}");
    drop(unread);
    assert_eq!(server.chat(&chat_body(json!({}))).await.status(), 200);
}

#[tokio::test]
async fn draining_sends_clients_elsewhere_and_finishes_what_runs() {
    let setup = Setup { drain_delay: Duration::from_secs(1), ..Setup::default() };
    let server = Running::start(setup).await;
    let client = Client::open(server.address).await;
    let whole = completion_body(json!({ "ignore_eos": true }));
    assert_eq!(client.complete(&whole).await.unwrap().status(), 200);
    server.stop.send(()).unwrap();
    while client.status("/ready").await.unwrap() == 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let taken = client.complete(&whole).await.unwrap();
    assert_eq!((taken.status(), taken.headers().get("connection")), (StatusCode::OK, None));
    server.probe.gate().close();
    let running = client.complete(&with(whole.clone(), json!({ "stream": true }))).await.unwrap();
    until("it runs", || server.engine.load().running == 1).await;
    // The connection takes no more requests, and ends after its last answer.
    let begun = Instant::now();
    while client.status("/health").await.is_ok() {
        assert!(begun.elapsed() < LONG, "it goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = Client::open(server.address).await;
    assert_eq!(other.complete(&whole).await.unwrap().status(), 503);
    assert!(other.ended().await.0.is_ok());
    server.probe.gate().open();
    assert!(text(running).await.ends_with("data: [DONE]\n\n"));
    assert!(client.ended().await.0.is_ok());
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn a_client_that_sleeps_does_not_hold_up_the_end() {
    let server = Running::start(Setup { drain_deadline: LONG, ..Setup::default() }).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
    let mut connection = pin!(connection);
    let mut requests = requests.ready().await.unwrap();
    let (response, _) =
        requests.send_request(Request::get("http://a/health").body(()).unwrap(), true).unwrap();
    let answered = tokio::select! {
        answered = response => answered.unwrap(),
        ended = connection.as_mut() => panic!("{ended:?}"),
    };
    assert_eq!(answered.status(), 200);
    // Nobody reads what the server says of its end.
    server.stop.send(()).unwrap();
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

/// A stream whose answer came before its request was read would be reset, and some clients lose the answer then.
#[tokio::test]
async fn a_refusal_waits_for_the_rest_of_a_small_body() {
    let server = Running::start(Setup::default()).await;
    let client = Client::open(server.address).await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let request = Request::post("http://a/v1/embeddings").body(()).unwrap();
    let (response, mut stream) = requests.send_request(request, false).unwrap();
    tokio::time::sleep(SHORT / 3).await;
    stream.send_data(Bytes::from_static(b"{}"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::NOT_FOUND);
    let reset = timeout(SHORT, std::future::poll_fn(|context| stream.poll_reset(context))).await;
    assert!(!matches!(reset, Ok(Ok(_))), "{reset:?}");
}
