//! A server from its first connection to its last.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use sparkv_engine::TextEngine;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::app::App;
use crate::config::{Policy, ServerConfig};
use crate::http::connection::Connections;
use crate::http::server::HttpServer;
use crate::routes;

/// How often a draining server looks whether the last request has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A draining server turns requests away for this long at least before it closes.
const REFUSING: Duration = Duration::from_millis(250);

/// Requests cut off at the deadline get this long to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Changes what a running server goes by; cheap to clone.
#[derive(Clone)]
pub struct PolicyHandle(App);

/// The server wants keys, and would serve anybody without them. That takes a restart: a file that was emptied by
/// mistake must not open the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no API key is left; a server that wants one goes on wanting it until it is restarted")]
pub struct NoKeyLeft;

impl PolicyHandle {
    /// Requests that come from now on go by `policy`; those taken go on as they are.
    ///
    /// # Errors
    /// If it would take the last API key away; nothing was changed then.
    pub fn set(&self, policy: Policy) -> Result<(), NoKeyLeft> {
        if policy.api_keys.is_empty() && !self.0.policy().api_keys.is_empty() {
            return Err(NoKeyLeft);
        }
        self.0.set_policy(policy);
        Ok(())
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{address} is in use already; stop what listens there or choose another port")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The host name or address does not exist here.
    #[error("cannot find the host `{host}`")]
    UnknownHost {
        /// The host asked for.
        host: String,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered.
    Complete,
    /// The deadline passed before the last one was; it ended with an error.
    CutOff,
    /// The engine's thread ended by itself: every request got an error.
    EngineLost,
}

/// The routes over an engine.
pub struct Server {
    app: App,
}

impl Server {
    /// A server of `engine`.
    pub fn new(engine: TextEngine, config: ServerConfig) -> Self {
        Self { app: App::new(engine, config, routes::document()) }
    }

    /// Listens on `host` (an address or a name such as `localhost`) and `port`; 0 takes any free one.
    ///
    /// # Errors
    /// If the port is in use, the host unknown, or the system refuses.
    pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
        let address = resolve(host, port).await?;
        TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Refused { address, source },
        })
    }

    /// What changes it while it runs.
    pub fn policy(&self) -> PolicyHandle {
        PolicyHandle(self.app.clone())
    }

    /// All routes, for serving them by other means.
    pub fn router(&self) -> Router {
        routes::router(self.app.clone())
    }

    /// Serves until `shutdown` ends, and for [`ServerConfig::drain_delay`] after it, though it is not ready any more;
    /// then drains: new requests get a 503 while the running ones finish, and connections end with their answers; then
    /// the listener closes. Ends after the last answer was sent; at the deadline, what still runs ends with an
    /// error, and the server within a second. Ends, too, once the engine is lost.
    ///
    /// This listens with the limits of [`Connections::default`]; [`Self::serve_at`] takes others.
    ///
    /// # Errors
    /// If accepting connections fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<Drained> {
        self.serve_at(HttpServer::start(listener, Connections::default()), shutdown).await
    }

    /// Serves, as [`Self::serve`] does, where connections are accepted already. Requests are answered as soon as
    /// this returns; what it returns is to be awaited for the rest.
    ///
    /// # Errors
    /// If accepting connections fails for good.
    pub fn serve_at<S>(
        self,
        server: HttpServer,
        shutdown: S,
    ) -> impl Future<Output = io::Result<Drained>> + Send + use<S>
    where
        S: Future<Output = ()> + Send,
    {
        server.set_routes(self.router());
        self.until_drained(server, shutdown)
    }

    /// Waits for the end, and sees to it that it is one in good order.
    async fn until_drained(
        self,
        mut server: HttpServer,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<Drained> {
        if let Some(ended) = self.until(&mut server, shutdown).await {
            return ended;
        }
        self.app.start_leaving();
        let delay = self.app.config().drain_delay;
        tracing::info!(delay_seconds = delay.as_secs(), "told to stop; not ready any more");
        // Whoever asks /ready has time to hear of it before anybody is turned away.
        if let Some(ended) = self.until(&mut server, sleep(delay)).await {
            return ended;
        }
        tracing::info!("draining");
        self.app.start_draining();
        server.drain();
        let begun = Instant::now();
        let deadline = begun + self.app.config().drain_deadline;
        // Whoever is just about to ask is told, even if nothing runs.
        let refuse_until = begun + REFUSING;
        while !(self.app.is_idle() && Instant::now() >= refuse_until) && Instant::now() < deadline {
            sleep(DRAIN_POLL).await;
        }
        server.close();
        if let Ok(ended) = timeout_at(deadline, server.ended()).await {
            return ended.map(|()| Drained::Complete);
        }
        self.app.abort();
        if let Ok(ended) = timeout(LAST_WORDS, server.ended()).await {
            ended?;
        }
        Ok(Drained::CutOff)
    }

    /// Waits for `event`; what serving came to, if it ended before.
    async fn until(
        &self,
        server: &mut HttpServer,
        event: impl Future<Output = ()> + Send,
    ) -> Option<io::Result<Drained>> {
        tokio::select! {
            ended = server.ended() => Some(ended.map(|()| Drained::Complete)),
            () = event => None,
            () = self.app.engine_lost() => {
                tracing::error!("the engine is gone; no request can be served");
                // Whoever asks meanwhile is told so, and an orchestrator sees that this is not ready.
                sleep(LAST_WORDS).await;
                server.close();
                // Whoever is not through by then is cut off when `server` is dropped.
                let _ = timeout(LAST_WORDS, server.ended()).await;
                Some(Ok(Drained::EngineLost))
            }
        }
    }
}

/// The first address of `host`.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr, BindError> {
    // Brackets are how URLs write such an address.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bracketed = bare.and_then(|bare| bare.parse::<Ipv6Addr>().ok()).map(IpAddr::V6);
    if let Some(address) = bracketed.or_else(|| host.parse().ok()) {
        return Ok(SocketAddr::new(address, port));
    }
    let unknown = || BindError::UnknownHost { host: host.to_owned() };
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(|_| unknown())?;
    addresses.next().ok_or_else(unknown)
}
