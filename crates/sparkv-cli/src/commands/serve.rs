//! `sparkv serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sparkv_eval::bench::Loading;
use sparkv_models::ModelSource;
use sparkv_server::{Connections, Drained, HttpServer, Server, ServerConfig, Tls};
use tokio::net::TcpListener;

use crate::loading::{self, Loaded};
use crate::logging;
use crate::progress;
use crate::reload::{self, Hangup, Reloader, Sources, Target};
use crate::settings::{Settings, TlsFiles};
use crate::summary;

/// What is known before anything is loaded.
struct Start {
    reloader: Reloader,
    settings: Arc<Settings>,
    source: ModelSource,
    tls: Option<Tls>,
}

/// Serves until told to stop.
///
/// # Errors
/// If the settings are wrong, the address cannot be had, the model cannot be loaded, serving fails, or the model is
/// lost.
pub(crate) fn serve(sources: Sources) -> anyhow::Result<()> {
    let layers = sources.layers()?;
    let settings = Arc::new(Settings::new(&layers)?);
    let reloader = Reloader::new(sources, &layers, &settings);
    let source = loading::source(&settings)?;
    let _telemetry = logging::init(settings.server.log_format)?;
    let read = |files: &TlsFiles| Tls::read(&files.certificate, &files.key);
    let tls = settings.tls.as_ref().map(read).transpose()?;
    let drain_seconds = settings.server.drain_seconds;
    let start = Start { reloader, settings, source, tls };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let drained = runtime.block_on(start.run());
    // What still runs was cut off; do not wait for it.
    runtime.shutdown_background();
    match drained? {
        Some(Drained::CutOff) => {
            tracing::warn!("requests still running after {drain_seconds} s were cut off");
        }
        Some(Drained::EngineLost) => anyhow::bail!("the model's thread ended unexpectedly; see the log"),
        Some(Drained::Complete) | None => {}
    }
    Ok(())
}

impl Start {
    /// Listens, loads and serves; `None` if told to stop before there was anything to serve.
    async fn run(self) -> anyhow::Result<Option<Drained>> {
        let Self { reloader, settings, source, tls } = self;
        // Read before the model is, as it may be wrong; a port in use is known before, too.
        let policy = reload::policy(&settings)?;
        let server = &settings.server;
        let listener = Server::bind(&server.host, server.port).await?;
        let address = listener.local_addr()?;
        if policy.api_keys.is_empty() && !address.ip().is_loopback() {
            tracing::warn!(%address, "no API key is set: whoever reaches this address may use the model");
        }
        let mut stop = Box::pin(stop_signal().context("cannot listen for signals")?);
        let hangup = Hangup::listen().context("cannot listen for signals")?;
        let http = listen(listener, &settings, tls.clone());
        tracing::info!(%address, "listening; loading the model");
        let loaded = tokio::select! {
            loaded = load(Arc::clone(&settings), source) => loaded?,
            () = &mut stop => {
                tracing::info!("told to stop while the model was loaded");
                return Ok(None);
            }
        };
        summary::log(&loaded, &settings);
        let names = Names::new(server.served_model_name.as_deref(), &loaded);
        let config = ServerConfig {
            generation: loaded.generation,
            model_name: names.shown.clone(),
            model_aliases: names.aliases,
            list_aliases: names.are_given,
            accept_any_model: server.accept_any_model,
            model_path: loaded.source,
            weight_bytes: loaded.loading.weight_bytes,
            policy,
            unknown_fields: server.unknown_fields.into(),
            body_limit: server.body_limit,
            drain_delay: Duration::from_secs(server.drain_delay_seconds.into()),
            drain_deadline: Duration::from_secs(server.drain_seconds.into()),
            request_timeout: server.request_seconds.map(|seconds| Duration::from_secs(seconds.get().into())),
            health_follows_ready: server.health_follows_ready,
            metrics_open: server.metrics_open,
            adopt_trace: logging::ADOPT_TRACE,
        };
        let served = Server::new(loaded.engine, config);
        let scheme = if tls.is_some() { "https" } else { "http" };
        tokio::spawn(reloader.run(Target { policy: served.policy(), tls }, hangup));
        let serving = served.serve_at(http, stop);
        greet(&names.shown, scheme, address);
        Ok(Some(serving.await?))
    }
}

/// What the model is called.
struct Names {
    /// What answers call it.
    shown: String,
    /// What requests may call it, too.
    aliases: Vec<String>,
    /// Whether the operator chose them.
    are_given: bool,
}

impl Names {
    /// The names `given`, else the model's own, and what the operator wrote to have it loaded.
    fn new(given: Option<&[String]>, loaded: &Loaded) -> Self {
        match given {
            Some([shown, others @ ..]) => {
                let mut aliases: Vec<String> = Vec::new();
                for name in others.iter().filter(|name| *name != shown) {
                    if !aliases.contains(name) {
                        aliases.push(name.clone());
                    }
                }
                Self { shown: shown.clone(), aliases, are_given: true }
            }
            _ => Self { shown: loaded.name.clone(), aliases: vec![loaded.source.clone()], are_given: false },
        }
    }
}

/// Accepts connections, as far as the settings allow.
fn listen(listener: TcpListener, settings: &Settings, tls: Option<Tls>) -> HttpServer {
    let server = &settings.server;
    let connections = Connections {
        max: usize::try_from(server.max_connections.get()).unwrap_or(usize::MAX),
        head_timeout: Duration::from_secs(server.header_seconds.get().into()),
        head_limit: server.header_limit.get(),
        tls,
        cors: settings.cors.clone(),
        health_follows_ready: server.health_follows_ready,
        ..Connections::default()
    };
    HttpServer::start(listener, connections)
}

/// Loads on a thread of its own, so that this one answers meanwhile.
async fn load(settings: Arc<Settings>, source: ModelSource) -> anyhow::Result<Loaded> {
    let loading = move || {
        let progress = progress::of_server(settings.server.log_format);
        let loaded = loading::load(&settings, &source, &*progress)?;
        let Loading { seconds, weight_bytes, resident_bytes, peak_bytes } = loaded.loading;
        tracing::info!(seconds, weight_bytes, resident_bytes, peak_bytes, "the model is loaded");
        Ok(loaded)
    };
    tokio::task::spawn_blocking(loading).await.context("loading the model failed")?
}

/// Says where to find what is served. It serves as well if nobody reads this.
fn greet(name: &str, scheme: &str, address: SocketAddr) {
    let _ = writeln!(std::io::stdout(), "sparkv serves {name} at {scheme}://{address}");
}

/// Ends at the first Ctrl-C or SIGTERM. A second one ends the process.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::warn!("told to stop twice; not waiting for running requests");
            std::process::exit(1);
        });
    })
}

/// Ends at the first Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "cannot listen for Ctrl-C");
            std::future::pending::<()>().await;
        }
    })
}
