//! One connection: HTTP/1.1 or HTTP/2, by what the client says first, over TLS or not. What a client can hold is its own
//! slot, and that for a bounded time:
//!
//! - A head (method, path, headers) must have come [`Connections::head_timeout`] after the connection was opened
//!   or the last answer sent, else the connection ends; so do idle connections and TLS handshakes that stall. (Over
//!   HTTP/2, the head of one request may take longer while another is being answered.)
//! - A client that takes nothing of its answer for [`Connections::write_timeout`] is cut off: of what is sent to it at
//!   all, or, over HTTP/2, of one of its answers. The engine never waits for it: tokens go into a channel without
//!   bound, which holds no more than the request's `max_tokens`.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tower::ServiceExt;

use crate::http::activity::{Activity, Next};
use crate::http::cors::CorsOrigins;
use crate::http::stall::Stall;
use crate::http::tls::Tls;
use crate::http::unread;

/// Headers of a request; more are answered with a 431.
const MAX_HEADERS: usize = 100;

/// What hyper reads at a time at least.
const MIN_BUFFER: usize = 64 << 10;

/// A connection opened this short a time before the server closes may still make its request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Requests that a connection may have open at a time, over HTTP/2: as many as run and wait by default.
const MAX_STREAMS: u32 = 128;

/// What connections may take, and how they are secured.
#[derive(Debug, Clone)]
pub struct Connections {
    /// The most connections open at a time; further ones wait until one ends.
    pub max: usize,
    /// A request's head must have come by this time after the connection was opened or the last answer sent.
    pub head_timeout: Duration,
    /// Bytes of the largest head taken; a larger one gets a 431.
    pub head_limit: usize,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// Certificate and key; plain HTTP if `None`.
    pub tls: Option<Tls>,
    /// Pages of which origins may call.
    pub cors: CorsOrigins,
    /// Whether /health fails while there is nothing to serve.
    pub health_follows_ready: bool,
}

impl Default for Connections {
    /// 512 connections, heads of 64 KiB within 30 s, readers that pause for 2 minutes; no TLS, no foreign pages.
    fn default() -> Self {
        Self {
            max: 512,
            head_timeout: Duration::from_secs(30),
            head_limit: 64 << 10,
            write_timeout: Duration::from_secs(120),
            tls: None,
            cors: CorsOrigins::default(),
            health_follows_ready: false,
        }
    }
}

/// How far a server is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connections stay open between requests.
    Open,
    /// Each answer is its connection's last.
    Draining,
    /// There are no further connections, and none waits for a request.
    Closed,
}

/// One connection on its way.
pub(super) struct Connection {
    pub(super) connections: Arc<Connections>,
    pub(super) routes: watch::Receiver<Router>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl Connection {
    /// Answers requests until the client leaves, a limit is met, or the server closes.
    pub(super) async fn run(mut self, socket: TcpStream) {
        let opened = Instant::now();
        // A token is a small packet; it must not wait for the next one.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot send small packets at once");
        }
        let Some(tls) = self.connections.tls.clone() else { return self.speak(socket, opened).await };
        let handshake = timeout(self.connections.head_timeout, tls.accept(socket));
        let secured = tokio::select! {
            secured = handshake => secured,
            _ = self.phase.wait_for(|phase| *phase == Phase::Closed) => return,
        };
        match secured {
            Ok(Ok(stream)) => self.speak(stream, Instant::now()).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Speaks HTTP on a stream that can be written to since `opened`.
    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, opened: Instant) {
        let Self { connections, routes, mut phase } = self;
        let stream = TokioIo::new(Stall::new(stream, connections.write_timeout));
        let activity = Arc::new(Activity::new(opened, connections.head_timeout, connections.write_timeout));
        let service = {
            let (activity, phase, head_limit) =
                (Arc::clone(&activity), phase.clone(), connections.head_limit);
            service_fn(move |request: Request<Incoming>| {
                let (routes, phase) = (routes.borrow().clone(), phase.clone());
                let running = activity.begin(request.version());
                async move {
                    let response = answer(routes, request, head_limit, &phase).await;
                    Ok::<_, Infallible>(response.map(|body| running.watch(body)))
                }
            })
        };
        let builder = builder(&connections);
        let mut connection = pin!(builder.serve_connection(stream, service));
        let mut is_leaving = false;
        loop {
            let is_told = match *phase.borrow() {
                Phase::Open => false,
                // Over HTTP/1.1 each answer says so itself, and a connection that is idle stays open.
                Phase::Draining => activity.is_http2(),
                // Who has just come still gets an answer, which is its connection's last.
                Phase::Closed => activity.has_begun() || opened.elapsed() >= FIRST_REQUEST,
            };
            let wake = match activity.next(is_leaving).before(opened + FIRST_REQUEST) {
                Next::Cut(reason) => return tracing::debug!(reason, "a connection is cut off"),
                Next::Look(at) if is_leaving || !is_told => at,
                Next::Look(_) | Next::Leave => {
                    is_leaving = true;
                    activity.leave();
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
            };
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    return;
                }
                Ok(()) = phase.changed() => {}
                () = activity.begun() => {}
                () = sleep_until(wake) => {}
            }
        }
    }
}

/// HTTP with its limits.
fn builder(connections: &Connections) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(connections.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(connections.head_limit.max(MIN_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(connections.head_limit).unwrap_or(u32::MAX));
    builder
}

/// Bytes of a request's head, as HTTP/1.1 writes it.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let line = request.method().as_str().len() + target + " ".len() + " HTTP/1.1\r\n\r\n".len();
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": ".len() + "\r\n".len()
    };
    line + request.headers().iter().map(field).sum::<usize>()
}

/// What the routes answer.
async fn answer(
    routes: Router,
    request: Request<Incoming>,
    head_limit: usize,
    phase: &watch::Receiver<Phase>,
) -> Response<Body> {
    let version = request.version();
    // hyper reads a little more than that at a time, and of HTTP/2 it does not count the headers.
    if request.headers().len() > MAX_HEADERS || head_bytes(&request) > head_limit {
        let mut refused = Response::new(Body::empty());
        *refused.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return refused;
    }
    if version == Version::HTTP_2 {
        let (head, body) = request.into_parts();
        let (body, returned) = unread::lend(body);
        let Ok(response) = routes.oneshot(Request::from_parts(head, body)).await;
        returned.read_out().await;
        return response;
    }
    let Ok(mut response) = routes.oneshot(request.map(Body::new)).await;
    if *phase.borrow() != Phase::Open {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
