//! Connections: accepted, bounded in number and time, and ended in order.
//!
//! Each connection is a task of its own. It speaks HTTP/1.1, over TLS if asked for, and asks for the routes at
//! every request, so that a server can listen before there is anything to serve. What a client can hold is its
//! own slot, and that for a bounded time:
//!
//! - A head (method, path, headers) must have come [`Connections::head_timeout`] after the connection was opened
//!   or the last answer sent, else the connection ends; so do idle connections and TLS handshakes that stall.
//! - A client that takes nothing of its answer for [`Connections::write_timeout`] is cut off. The engine never
//!   waits for it: tokens go into a channel without bound, which holds no more than the request's `max_tokens`.
//! - Beyond [`Connections::max`], no connection is accepted until one ends. Those who come wait in the system's
//!   queue: nothing is spent on them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::http::cors::CorsOrigins;
use crate::http::stall::Stall;
use crate::http::tls::Tls;
use crate::routes;

/// Headers of a request; more are answered with a 431.
const MAX_HEADERS: usize = 100;

/// What hyper reads at a time at least.
const MIN_BUFFER: usize = 64 << 10;

/// After an error that would come again at once, such as too many open files, the next attempt waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

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
enum Phase {
    /// Connections stay open between requests.
    Open,
    /// Each answer is its connection's last.
    Draining,
    /// There are no further connections, and none waits for a request.
    Closed,
}

/// A server that listens, though it may have nothing to serve yet: /health is a 200, everything else a 503 that
/// says that the model is being loaded. Dropping it ends all connections.
#[derive(Debug)]
pub struct HttpServer {
    /// What connections ask at every request.
    routes: watch::Sender<Router>,
    cors: CorsOrigins,
    phase: watch::Sender<Phase>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Accepts connections from now on. To be called within a tokio runtime.
    pub fn start(listener: TcpListener, connections: Connections) -> Self {
        let cors = connections.cors.clone();
        let (routes, current) = watch::channel(routes::loading(&cors, connections.health_follows_ready));
        let (phase, current_phase) = watch::channel(Phase::Open);
        let accepting = tokio::spawn(accept(listener, connections, current, current_phase));
        Self { routes, cors, phase, accepting }
    }

    /// Serves `routes` from the next request on, of whatever connection.
    pub(crate) fn set_routes(&self, routes: Router) {
        let _ = self.routes.send_replace(self.cors.around(routes));
    }

    /// Lets each answer be the last of its connection, so that clients that keep connections open come back by a new
    /// one, which a balancer leads elsewhere. (A connection that is closed while a request is on its way would lose
    /// it; one that is idle stays open.)
    pub(crate) fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Accepts no more and ends each connection after the answer that it is in the middle of.
    pub(crate) fn close(&self) {
        self.phase.send_replace(Phase::Closed);
    }

    /// Waits for the last connection to end, which is after [`Self::close`] only.
    ///
    /// # Errors
    /// If accepting failed for good.
    pub(crate) async fn ended(&mut self) -> io::Result<()> {
        (&mut self.accepting).await.map_err(io::Error::other)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until the server closes, then waits for the connections to end. They end at once if this future is dropped.
async fn accept(
    listener: TcpListener,
    connections: Connections,
    routes: watch::Receiver<Router>,
    mut phase: watch::Receiver<Phase>,
) {
    let slots = Arc::new(Semaphore::new(connections.max.min(Semaphore::MAX_PERMITS)));
    let connections = Arc::new(connections);
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        // What has ended is let go of.
        while tasks.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = next(&listener, &slots) => accepted,
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => break,
        };
        let Some((socket, slot)) = accepted else { break };
        let connection = Connection {
            connections: Arc::clone(&connections),
            routes: routes.clone(),
            phase: phase.clone(),
            watcher: graceful.watcher(),
        };
        tasks.spawn(async move {
            connection.run(socket).await;
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    while tasks.join_next().await.is_some() {}
}

/// The next connection, once there is a slot for it; `None` if there can be none.
async fn next(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // Fails if somebody closed the semaphore; nobody does.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    loop {
        let error = match listener.accept().await {
            Ok((socket, _)) => return Some((socket, slot)),
            Err(error) => error,
        };
        // A client that left before it was its turn; the next one is none the worse.
        let gone = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
        ];
        if !gone.contains(&error.kind()) {
            tracing::error!(%error, "cannot accept a connection");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// One connection on its way.
struct Connection {
    connections: Arc<Connections>,
    routes: watch::Receiver<Router>,
    phase: watch::Receiver<Phase>,
    watcher: Watcher,
}

impl Connection {
    async fn run(mut self, socket: TcpStream) {
        // A token is a small packet; it must not wait for the next one.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot send small packets at once");
        }
        let Some(tls) = self.connections.tls.clone() else { return self.speak(socket).await };
        let handshake = timeout(self.connections.head_timeout, tls.accept(socket));
        let secured = tokio::select! {
            secured = handshake => secured,
            _ = self.phase.wait_for(|phase| *phase == Phase::Closed) => return,
        };
        match secured {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Answers requests until the client leaves, a limit is met, or the server closes.
    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { connections, routes, phase, watcher } = self;
        let stream = TokioIo::new(Stall::new(stream, connections.write_timeout));
        let service = service_fn(move |request: Request<Incoming>| {
            let (routes, phase, version) = (routes.borrow().clone(), phase.clone(), request.version());
            async move {
                let mut response = routes.oneshot(request.map(Body::new)).await?;
                if *phase.borrow() != Phase::Open && version <= Version::HTTP_11 {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(connections.head_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(connections.head_limit)
            .max_buf_size(connections.head_limit.max(MIN_BUFFER))
            .serve_connection(stream, service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
