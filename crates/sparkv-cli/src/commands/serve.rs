//! `sparkv serve`.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use sparkv_server::{Drained, Server, ServerConfig};

use crate::loading;
use crate::settings::Settings;

/// Serves until told to stop.
///
/// # Errors
/// If the address cannot be had, the model cannot be loaded, serving fails, or the model is lost.
pub(crate) fn serve(settings: &Settings) -> anyhow::Result<()> {
    let source = loading::source(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = &settings.server;
    // A port in use is known before a large model is read.
    let listener = runtime.block_on(Server::bind(&server.host, server.port))?;
    let address = listener.local_addr()?;
    let loaded = loading::load(settings, &source)?;
    let config = ServerConfig {
        model_name: loaded.name.clone(),
        model_aliases: vec![loaded.alias],
        api_key: settings.api_key.clone(),
        body_limit: server.body_limit,
        default_kv: settings.kv.clone(),
        presets: settings.presets.clone(),
        drain_deadline: Duration::from_secs(server.drain_seconds.into()),
        request_timeout: server.request_seconds.map(|seconds| Duration::from_secs(seconds.get().into())),
    };
    let drained = runtime.block_on(async {
        let stop = stop_signal().context("cannot listen for signals")?;
        // It serves as well if nobody reads this.
        let _ = writeln!(std::io::stdout(), "sparkv serves {} at http://{address}", loaded.name);
        anyhow::Ok(Server::new(loaded.engine, config).serve(listener, stop).await?)
    })?;
    if drained == Drained::CutOff {
        tracing::warn!("requests still running after {} s were cut off", server.drain_seconds);
    }
    // What still runs was cut off above; do not wait for it.
    runtime.shutdown_background();
    if drained == Drained::EngineLost {
        anyhow::bail!("the model's thread ended unexpectedly; see the log");
    }
    Ok(())
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
