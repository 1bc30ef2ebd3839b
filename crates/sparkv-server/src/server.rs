//! A server from its first connection to its last.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use sparkv::{KvChoice, Presets};
use sparkv_engine::TextEngine;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::app::App;
use crate::auth::ApiKey;
use crate::routes;

/// How often a draining server looks whether the last request has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Requests cut off at the deadline get this long to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Name under which the model is served.
    pub model_name: String,
    /// Other names that requests may use for it.
    pub model_aliases: Vec<String>,
    /// Needed on all routes but /health and /ready, if set.
    pub api_key: Option<ApiKey>,
    /// The largest request body taken, in bytes.
    pub body_limit: usize,
    /// What the cache of a request without `kv_cache` may cost.
    pub default_kv: KvChoice,
    /// What requests may name in `kv_cache.preset`.
    pub presets: Presets,
    /// Running requests get this long to finish when the server is told to stop.
    pub drain_deadline: Duration,
    /// A request that takes longer ends with an error; none does if `None`.
    pub request_timeout: Option<Duration>,
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
        Self { app: App::new(engine, config) }
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

    /// All routes, for serving them by other means.
    pub fn router(&self) -> Router {
        routes::router(self.app.clone())
    }

    /// Serves until `shutdown` ends, then drains: new requests get a 503 while the running ones finish; then
    /// the listener closes. Ends after the last answer was sent; at the deadline, what still runs ends with an
    /// error, and the server within a second. Ends, too, once the engine is lost.
    ///
    /// # Errors
    /// If accepting connections fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<Drained> {
        let (close, closed) = oneshot::channel::<()>();
        // A token is a small packet; it must not wait for the next one.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "cannot send small packets at once");
            }
        });
        let serving = axum::serve(listener, self.router()).with_graceful_shutdown(async {
            // An error means that `close` was dropped: this function is gone, and the server with it.
            let _ = closed.await;
        });
        let mut serving = tokio::spawn(serving.into_future());
        tokio::select! {
            ended = &mut serving => return ended.map_err(io::Error::other)?.map(|()| Drained::Complete),
            () = shutdown => {}
            () = self.app.engine_lost() => {
                tracing::error!("the engine is gone; no request can be served");
                // Whoever asks meanwhile is told so, and an orchestrator sees that this is not ready.
                sleep(LAST_WORDS).await;
                let _ = close.send(());
                if timeout(LAST_WORDS, &mut serving).await.is_err() {
                    serving.abort();
                }
                return Ok(Drained::EngineLost);
            }
        }
        tracing::info!("draining");
        self.app.start_draining();
        let deadline = Instant::now() + self.app.config().drain_deadline;
        while !self.app.is_idle() && Instant::now() < deadline {
            sleep(DRAIN_POLL).await;
        }
        // An error means that serving ended by itself, which the wait below sees.
        let _ = close.send(());
        if let Ok(ended) = timeout_at(deadline, &mut serving).await {
            return ended.map_err(io::Error::other)?.map(|()| Drained::Complete);
        }
        self.app.abort();
        match timeout(LAST_WORDS, &mut serving).await {
            Ok(ended) => ended.map_err(io::Error::other)??,
            Err(_) => serving.abort(),
        }
        Ok(Drained::CutOff)
    }
}

/// The first address of `host`.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr, BindError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let unknown = || BindError::UnknownHost { host: host.to_owned() };
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(|_| unknown())?;
    addresses.next().ok_or_else(unknown)
}
