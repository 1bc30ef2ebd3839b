//! Settings that change while a server runs: presets, the default KV settings, API keys, the certificate.
//!
//! SIGHUP reads them again, and so does a file that has changed: the settings, the keys, the certificate. Files are
//! looked at every few seconds, and taken once two looks saw the same, so that none is read half written. What is
//! wrong is logged and changes nothing; requests go on as they began, whatever changes. The certificate stands by
//! itself: whatever is wrong with settings or keys, one that was renewed is taken before the old one expires.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use sparkv_server::{Policy, PolicyHandle, Tls};
use toml::Table;

use crate::layers::Layers;
use crate::options::Options;
use crate::settings::{Settings, TlsFiles};

/// Time between two looks at the files.
const PERIOD: Duration = Duration::from_secs(2);

/// Sections and keys that may change; a server does not read those of `run`.
const CHANGEABLE: [&str; 5] = ["kv", "presets", "run", "server.api_key", "server.api_key_file"];

/// Where settings come from, to be read at any time.
pub(crate) struct Sources {
    /// The file of --config.
    pub(crate) file: Option<PathBuf>,
    /// What flags and variables said.
    pub(crate) given: Options,
    /// Which of them said it.
    pub(crate) matches: ArgMatches,
}

/// What a file holds, in short; `None` if it cannot be read.
type Seen = Vec<Option<u64>>;

impl Sources {
    /// The sources as they are now.
    ///
    /// # Errors
    /// As of [`Layers::new`].
    pub(crate) fn layers(&self) -> anyhow::Result<Layers> {
        Layers::new(self.file.clone(), &self.given, &self.matches)
    }
}

/// Where a running server takes changes.
pub(crate) struct Target {
    /// Keys, presets, the default.
    pub(crate) policy: PolicyHandle,
    /// The certificate, if there is one.
    pub(crate) tls: Option<Tls>,
}

/// Reads settings again.
pub(crate) struct Reloader {
    sources: Sources,
    /// What the server was started with.
    started: Table,
    /// Certificate and key that it was started with.
    tls: Option<TlsFiles>,
    /// Files that are watched.
    files: Vec<PathBuf>,
    /// What they held when they were last taken, whatever came of it.
    taken: Seen,
    /// What they held at the last look.
    last: Seen,
}

impl Reloader {
    /// Watches what has just been read: `settings`, from `layers`. What changes from now on is noticed, though it
    /// may take minutes until there is a server.
    pub(crate) fn new(sources: Sources, layers: &Layers, settings: &Settings) -> Self {
        let files = files(&sources, settings, settings.tls.as_ref());
        let taken = look(&files);
        let last = taken.clone();
        Self { sources, started: layers.merged(), tls: settings.tls.clone(), files, taken, last }
    }

    /// Reads everything again at each SIGHUP and whenever a file has changed, for ever.
    pub(crate) async fn run(mut self, target: Target, mut hangup: Hangup) {
        let mut looks = tokio::time::interval(PERIOD);
        loop {
            let asked = tokio::select! {
                () = hangup.next() => true,
                _ = looks.tick() => false,
            };
            // Small files; nobody else waits for this thread meanwhile.
            tokio::task::block_in_place(|| self.look(&target, asked));
        }
    }

    /// Takes the files if they were changed, or if somebody `asked` for it.
    fn look(&mut self, target: &Target, asked: bool) {
        let now = look(&self.files);
        if asked || (now != self.taken && now == self.last) {
            self.taken.clone_from(&now);
            let certificate = self.take_certificate(target);
            let settings = self.take_settings(target);
            if let Err(error) = &certificate {
                tracing::error!(error = format!("{error:#}"), "the certificate was not changed");
            }
            match settings {
                Ok(()) => tracing::info!("read the settings again"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the settings were not changed"),
            }
        }
        self.last = now;
    }

    /// Reads certificate and key, and if they are right, goes by them.
    fn take_certificate(&self, target: &Target) -> anyhow::Result<()> {
        match (&target.tls, &self.tls) {
            (Some(tls), Some(files)) => Ok(tls.reread(&files.certificate, &files.key)?),
            _ => Ok(()),
        }
    }

    /// Reads settings and keys, and if all of them are right, goes by them.
    fn take_settings(&mut self, target: &Target) -> anyhow::Result<()> {
        let layers = self.sources.layers()?;
        let settings = Settings::new(&layers)?;
        target.policy.set(policy(&settings)?)?;
        let fixed = changes(&self.started, &layers.merged());
        if !fixed.is_empty() {
            let settings = fixed.into_iter().collect::<Vec<_>>().join(", ");
            tracing::warn!(settings, "these settings have changed, but hold from the next start only");
        }
        let files = files(&self.sources, &settings, self.tls.as_ref());
        if files != self.files {
            self.taken = look(&files);
            self.files = files;
        }
        Ok(())
    }
}

/// What a server goes by that may change.
///
/// # Errors
/// If the keys cannot be read.
pub(crate) fn policy(settings: &Settings) -> anyhow::Result<Policy> {
    Ok(Policy {
        api_keys: settings.api_keys()?,
        default_kv: settings.kv.clone(),
        presets: settings.presets.clone(),
    })
}

/// The files that settings come from, and those of the certificate that is served.
fn files(sources: &Sources, settings: &Settings, tls: Option<&TlsFiles>) -> Vec<PathBuf> {
    let tls = tls.into_iter().flat_map(|tls| [&tls.certificate, &tls.key]);
    sources.file.iter().chain(&settings.server.api_key_file).chain(tls).cloned().collect()
}

fn look(files: &[PathBuf]) -> Seen {
    let short = |path| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(path).ok()?.hash(&mut hasher);
        Some(hasher.finish())
    };
    files.iter().map(short).collect()
}

/// The settings that differ, but for those that may.
fn changes(started: &Table, now: &Table) -> BTreeSet<String> {
    let mut changes = BTreeSet::new();
    let sections = started.keys().chain(now.keys()).filter(|section| !CHANGEABLE.contains(&section.as_str()));
    for section in sections {
        let keys = |table: &Table| table.get(section).and_then(|values| values.as_table()).cloned();
        let (before, after) = (keys(started).unwrap_or_default(), keys(now).unwrap_or_default());
        for key in before.keys().chain(after.keys()) {
            let name = format!("{section}.{key}");
            if before.get(key) != after.get(key) && !CHANGEABLE.contains(&name.as_str()) {
                changes.insert(name);
            }
        }
    }
    changes
}

/// SIGHUP, which would end the process if nobody listened.
#[cfg(unix)]
pub(crate) struct Hangup(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangup {
    /// Listens from now on.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?))
    }

    async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// A signal that this system does not have.
#[cfg(not(unix))]
pub(crate) struct Hangup;

#[cfg(not(unix))]
impl Hangup {
    /// Never comes.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_is_not_named() {
        let table = |text: &str| toml::from_str::<Table>(text).unwrap();
        let before = table("[server]\nport = 1\nhost = 'a'\napi_key = 'x'\n[kv]\npreset = 'exact'\n");
        let after = table("[server]\nport = 2\nhost = 'a'\nbody_limit = 3\n[kv]\nbudget = 1\n[presets.a]\n");
        let names: Vec<_> = changes(&before, &after).into_iter().collect();
        assert_eq!(names, ["server.body_limit", "server.port"]);
        assert!(changes(&before, &before).is_empty());
    }
}
