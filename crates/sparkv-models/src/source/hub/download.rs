//! Files on their way from the hub into the cache.
use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::LoadError;
use crate::progress::{Progress, Task, Unit};
use crate::source::folder::CONFIG;
use crate::source::hub::HubOptions;
use crate::source::hub::fault;
use crate::source::hub::name::HubName;
use crate::source::hub::quantizations::{choose, quantizations};
use crate::source::hub::repo::{
    CachedRepo, HubFiles, MAIN, REQUIRED, absent, is_name, leads_down, missing, optional,
};
use crate::source::safetensors::{INDEX, SINGLE, shards};

/// How often something is asked for that may succeed the next time.
const ATTEMPTS: u32 = 4;

/// Time until the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// One commit of a model, whose files are added to the cache.
pub(super) struct Download<'a> {
    name: &'a HubName,
    options: &'a HubOptions,
    progress: &'a dyn Progress,
    cache: PathBuf,
    cached: CachedRepo,
    api: Api,
    repo: ApiRepo,
    commit: String,
    /// All files of the commit.
    files: Vec<String>,
    attempts: u32,
}

impl<'a> Download<'a> {
    /// Asks what the model's revision is at present; of `commit`, if one is given: files of different ones need not fit
    /// together. A hub that is asked once only is not waited for.
    pub(super) fn new(
        name: &'a HubName,
        commit: Option<&str>,
        options: &'a HubOptions,
        progress: &'a dyn Progress,
        once: bool,
    ) -> Result<Self, LoadError> {
        let cache = options.cache(name)?;
        let error = |error: &ApiError| LoadError::Hub {
            repo: name.repo.clone(),
            file: "the list of files".to_owned(),
            reason: fault::reason(error, name, options),
        };
        let api = ApiBuilder::from_cache(Cache::new(cache.to_owned()))
            .with_endpoint(options.endpoint.clone())
            .with_token(options.token.clone())
            .build()
            .map_err(|reason| error(&reason))?;
        let revision = commit.or(name.revision.as_deref()).unwrap_or(MAIN);
        let at =
            |revision: &str| Repo::with_revision(name.repo.clone(), RepoType::Model, revision.to_owned());
        let attempts = if once { 1 } else { ATTEMPTS };
        let repo = api.repo(at(revision));
        let info = retrying(attempts, || repo.info().map_err(|error| (error, false)));
        let info = info.map_err(|reason| error(&reason))?;
        if !is_name(&info.sha) {
            return Err(LoadError::Hub {
                repo: name.repo.clone(),
                file: "the list of files".to_owned(),
                reason: "the commit's name makes no sense".to_owned(),
            });
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename).filter(|file| leads_down(file));
        Ok(Self {
            name,
            options,
            progress,
            cache: cache.to_owned(),
            cached: CachedRepo::new(cache, &name.repo),
            repo: api.repo(at(&info.sha)),
            api,
            files: files.collect(),
            commit: info.sha,
            attempts,
        })
    }

    /// The same, which tries again what may succeed then.
    pub(super) fn patient(self) -> Self {
        Self { attempts: ATTEMPTS, ..self }
    }

    /// All that is needed to run the model.
    pub(super) fn model(&self) -> Result<HubFiles, LoadError> {
        let has = |name: &str| self.files.iter().any(|file| file == name);
        let weights = [SINGLE, INDEX].into_iter().find(|weights| has(weights));
        let files = match weights {
            Some(weights) if self.name.tag.is_none() => HubFiles::Folder(self.safetensors(weights)?),
            _ => HubFiles::Gguf(self.gguf()?),
        };
        self.note_revision()?;
        Ok(files)
    }

    fn safetensors(&self, weights: &str) -> Result<PathBuf, LoadError> {
        for file in REQUIRED {
            self.file(file)?;
        }
        self.optional()?;
        // Weights come last: where they are in the cache, all the rest is.
        let path = self.file(weights)?;
        if weights == INDEX {
            let index = std::fs::read_to_string(&path).map_err(|source| LoadError::Io { path, source })?;
            for shard in shards(&index)? {
                self.file(&shard)?;
            }
        }
        let folder = self.folder();
        match missing(&folder) {
            None => Ok(folder),
            Some(file) => Err(self.error(&file, "it is not in the cache after its download")),
        }
    }

    fn gguf(&self) -> Result<PathBuf, LoadError> {
        let models = quantizations(self.files.iter().map(String::as_str));
        if models.is_empty() {
            let what =
                if self.name.tag.is_some() { "GGUF files" } else { "safetensors weights and no GGUF files" };
            return Err(self.error("weights", format!("the model has no {what}")));
        }
        let file = || self.name.tag.clone().unwrap_or_else(|| "weights".to_owned());
        let model =
            choose(&models, self.name.tag.as_deref()).map_err(|reason| self.error(&file(), reason))?;
        if !model.complete {
            return Err(self.error(&file(), format!("the hub lacks parts of {}", model.first())));
        }
        let paths = model.files.iter().map(|file| self.file(file));
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        paths.into_iter().next().ok_or_else(|| self.error(&file(), "there is no file"))
    }

    /// The files that one of `patterns` fits; each of them has to fit one.
    pub(super) fn matching(&self, patterns: &[glob::Pattern]) -> Result<Vec<PathBuf>, LoadError> {
        let idle = patterns.iter().find(|pattern| !self.files.iter().any(|file| pattern.matches(file)));
        if let Some(pattern) = idle {
            let reason = format!("no file is called so; there are {}", self.files.join(", "));
            return Err(self.error(&format!("`{pattern}`"), reason));
        }
        let files = self.files.iter().filter(|file| patterns.iter().any(|pattern| pattern.matches(file)));
        let paths = files.map(|file| self.file(file)).collect::<Result<_, _>>()?;
        self.note_revision()?;
        Ok(paths)
    }

    /// Gets the optional files that there are, and notes which there are not.
    pub(super) fn optional(&self) -> Result<(), LoadError> {
        self.file(CONFIG)?;
        for name in optional() {
            if self.files.iter().any(|file| file == name) {
                self.file(name)?;
            } else if let Some(note) = absent(&self.folder(), name) {
                // Without the note, the hub is asked again next time.
                let folder = note.parent().unwrap_or(&note);
                let _ = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&note, []));
            }
        }
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.cached.snapshot(&self.commit)
    }

    /// A file of the commit, which is downloaded unless it is there. What has arrived of it stays, whatever happens, and
    /// is not downloaded again.
    fn file(&self, name: &str) -> Result<PathBuf, LoadError> {
        let path = self.folder().join(name);
        if path.exists() {
            return Ok(path);
        }
        if !leads_down(name) {
            return Err(self.error(name, "its path leads out of the model"));
        }
        let mut bar = Bar { name, progress: self.progress, total: None, heard: 0, resumed: false };
        let mut attempt = || {
            let before = bar.heard;
            let got = self.repo.download_with_progress(name, &mut bar);
            got.map_err(|error| (error, bar.heard > before))
        };
        let mut got = retrying(self.attempts, &mut attempt);
        if got.as_ref().is_err_and(fault::is_leftover) && self.discard(name).is_ok() {
            got = retrying(self.attempts, &mut attempt);
        }
        if got.is_err() && bar.total.is_some() {
            self.progress.end();
        }
        // The client notes that the commit is the commit, which all its users know.
        let _ = std::fs::remove_file(self.cached.path.join("refs").join(&self.commit));
        got.map_err(|error| self.error(name, fault::reason(&error, self.name, self.options)))
    }

    /// Throws away what a former download left of a file.
    fn discard(&self, name: &str) -> Result<(), ApiError> {
        let metadata = self.api.metadata(&self.repo.url(name))?;
        let repo = Cache::new(self.cache.clone()).model(self.name.repo.clone());
        Ok(std::fs::remove_file(repo.blob_path(metadata.etag()).with_extension("part"))?)
    }

    /// Notes that the revision is this commit, now that its files are there: who is cut off before goes on with what was
    /// there before.
    fn note_revision(&self) -> Result<(), LoadError> {
        let revision = self.name.revision.as_deref().unwrap_or(MAIN);
        if self.commit.starts_with(revision) {
            return Ok(());
        }
        let path = self.cached.path.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, &self.commit))
            .map_err(|source| LoadError::Io { path, source })
    }

    fn error(&self, file: &str, reason: impl ToString) -> LoadError {
        LoadError::Hub { repo: self.name.repo.clone(), file: file.to_owned(), reason: reason.to_string() }
    }
}

/// Asks again, after a while, where that may help. An attempt also says whether it has got on; who gets on may go on.
fn retrying<T>(
    attempts: u32,
    mut attempt: impl FnMut() -> Result<T, (ApiError, bool)>,
) -> Result<T, ApiError> {
    let mut failed = 0;
    loop {
        match attempt() {
            Ok(got) => return Ok(got),
            Err((error, got_on)) => {
                failed = if got_on { 1 } else { failed + 1 };
                if failed >= attempts || !fault::is_transient(&error) {
                    return Err(error);
                }
                std::thread::sleep(PAUSE * 2u32.saturating_pow(failed - 1));
            }
        }
    }
}

/// Passes the hub's progress on to ours, over all attempts.
struct Bar<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
    total: Option<usize>,
    /// Bytes that there are.
    heard: u64,
    /// The next bytes are told from the file's beginning.
    resumed: bool,
}

impl hf_hub::api::Progress for &mut Bar<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        if self.total.replace(size).is_none() {
            self.progress.begin(&Task { name: self.name, total: size as u64, unit: Unit::Bytes });
        }
        self.resumed = true;
    }

    fn update(&mut self, size: usize) {
        let size = size as u64;
        let new = if std::mem::take(&mut self.resumed) { size.saturating_sub(self.heard) } else { size };
        self.heard += new;
        self.progress.advance(new);
    }

    fn finish(&mut self) {
        self.progress.end();
    }
}
