//! Connections: accepted, bounded in number, and ended in order.
//!
//! Each connection is a task of its own ([`super::connection`]), which asks for the routes at every request, so that a
//! server can listen before there is anything to serve. Beyond [`Connections::max`], no connection is accepted until
//! one ends. Those who come wait in the system's queue: nothing is spent on them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::http::connection::{Connection, Connections, Phase};
use crate::http::cors::CorsOrigins;
use crate::routes;

/// After an error that would come again at once, such as too many open files, the next attempt waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Connections in the system's queue are there at once; when none came for this long, there is none.
const LATE: Duration = Duration::from_millis(20);

/// The most of them that are answered.
const MOST_LATE: usize = 1024;

/// A server that listens, though it may have nothing to serve yet: /health (unless
/// [`Connections::health_follows_ready`]) and /version are 200s, everything else a 503 that says that the model is
/// being loaded. Dropping it ends all connections.
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
    /// one, which a balancer leads elsewhere. (Over HTTP/1.1, a connection that is closed while a request is on its way
    /// would lose it, so that those that are idle stay open.)
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
    let connection = |phase: &watch::Receiver<Phase>| Connection {
        connections: Arc::clone(&connections),
        routes: routes.clone(),
        phase: phase.clone(),
    };
    let mut tasks = JoinSet::new();
    loop {
        // What has ended is let go of.
        while tasks.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = next(&listener, &slots) => accepted,
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => break,
        };
        let Some((socket, slot)) = accepted else { break };
        let connection = connection(&phase);
        tasks.spawn(async move {
            connection.run(socket).await;
            drop(slot);
        });
    }
    // Who has connected already waits in the system's queue; closing it would cut them off without a word.
    for _ in 0..MOST_LATE {
        let Ok(Ok((socket, _))) = timeout(LATE, listener.accept()).await else { break };
        tasks.spawn(connection(&phase).run(socket));
    }
    drop(listener);
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
