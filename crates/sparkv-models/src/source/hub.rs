//! Models from the Hugging Face hub, through its standard cache.
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::LoadError;
use crate::progress::{Progress, Task, Unit};
use crate::source::folder::{CONFIG, GENERATION};
use crate::source::safetensors::{INDEX, SINGLE, shards};
use crate::source::text;

/// Files without which no model can be loaded.
const REQUIRED: [&str; 2] = [CONFIG, text::TOKENIZER];

/// Where Hugging Face's tools note, by an empty file in a folder of the commit's name, that a commit has no file of that
/// name.
const NO_EXIST: &str = ".no_exist";

/// Files that are used where they exist.
fn optional() -> impl Iterator<Item = &'static str> {
    std::iter::once(GENERATION).chain(text::OPTIONAL)
}

/// How to reach the hub. The default reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, as Hugging
/// Face's own tools do.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The cache's folder; `None` if there is no home folder to put it in.
    pub cache: Option<PathBuf>,
    /// Address of the hub.
    pub endpoint: String,
    /// Access token, for models that need one.
    pub token: Option<String>,
    /// Use what is in the cache, and nothing else.
    pub offline: bool,
}

impl Default for HubOptions {
    fn default() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let home = || std::env::home_dir().map(|home| home.join(".cache").join("huggingface"));
        let home = variable("HF_HOME").map(PathBuf::from).or_else(home);
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| home.map(|home| home.join("hub")));
        let saved_token = || cache.clone().and_then(|cache| Cache::new(cache).token());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: variable("HF_TOKEN").or_else(saved_token),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.as_str(), "0" | "false")),
            cache,
        }
    }
}

/// Makes sure that the cache has all files of model `repo` (ORG/NAME), and returns the folder they are in.
/// Asks the hub only for what the cache lacks, and once only whether there are those that a model may do without.
///
/// # Errors
/// If the hub cannot be reached, has no such model, or the model is in no format that can be loaded; when
/// offline, if the cache lacks a file.
pub fn fetch(repo: &str, options: &HubOptions, progress: &dyn Progress) -> Result<PathBuf, LoadError> {
    let error = |reason: &str| LoadError::Hub {
        repo: repo.to_owned(),
        file: "anything".to_owned(),
        reason: reason.to_owned(),
    };
    let cache = options.cache.clone().ok_or_else(|| error("there is no cache folder; set HF_HOME"))?;
    let cached = Cache::new(cache.clone()).model(repo.to_owned());
    let found = cached_model(&cached);
    match &found {
        Ok(folder) if options.offline || not_cached(folder).is_empty() => return Ok(folder.clone()),
        Err(missing) if options.offline => {
            return Err(LoadError::NotCached { repo: repo.to_owned(), file: missing.clone(), cache });
        }
        _ => {}
    }
    // What is in the cache is added to at its own commit: files of different ones need not fit together.
    let commit = found.as_deref().ok().and_then(commit_of).map(str::to_owned);
    let model = match commit {
        Some(commit) => Repo::with_revision(repo.to_owned(), RepoType::Model, commit),
        None => Repo::model(repo.to_owned()),
    };
    let api = ApiBuilder::from_cache(Cache::new(cache))
        .with_endpoint(options.endpoint.clone())
        .with_token(options.token.clone())
        .with_retries(3)
        .build()
        .map_err(|reason| error(&reason.to_string()))?;
    let download = Download { name: repo, api: api.repo(model), cached, progress };
    match found {
        Ok(folder) => {
            // A model that can be loaded is not held up by a hub that cannot be reached; `not_cached` tells of it.
            let _ = download.files().and_then(|files| download.optional(&files));
            Ok(folder)
        }
        Err(_) => download.all(),
    }
}

/// Optional files that the cache lacks, of the model in this folder of it, though the hub may have them.
pub(crate) fn not_cached(folder: &Path) -> Vec<&'static str> {
    let exists =
        |file: &str| folder.join(file).exists() || absent(folder, file).is_some_and(|note| note.exists());
    optional().filter(|file| !exists(file)).collect()
}

/// Where it is noted that the commit in this folder has no such file.
fn absent(folder: &Path, file: &str) -> Option<PathBuf> {
    Some(folder.parent()?.parent()?.join(NO_EXIST).join(folder.file_name()?).join(file))
}

/// The commit in a folder of the cache, by which the folder is called.
fn commit_of(folder: &Path) -> Option<&str> {
    folder.file_name()?.to_str()
}

/// The folder of a model whose files are all in the cache, else a file that is missing.
fn cached_model(cache: &CacheRepo) -> Result<PathBuf, String> {
    for file in REQUIRED {
        cache.get(file).ok_or(file)?;
    }
    if cache.get(SINGLE).is_none() {
        let index = cache.get(INDEX).ok_or(SINGLE)?;
        let index = std::fs::read_to_string(index).map_err(|_| INDEX)?;
        for shard in shards(&index).map_err(|_| INDEX)? {
            cache.get(&shard).ok_or(shard)?;
        }
    }
    let config = cache.get(CONFIG).ok_or(CONFIG)?;
    config.parent().map(Path::to_owned).ok_or_else(|| CONFIG.to_owned())
}

/// A model on its way into the cache.
struct Download<'a> {
    name: &'a str,
    api: ApiRepo,
    cached: CacheRepo,
    progress: &'a dyn Progress,
}

impl Download<'_> {
    fn all(&self) -> Result<PathBuf, LoadError> {
        let files = self.files()?;
        let has = |name: &str| files.iter().any(|file| file == name);
        let weights = if has(SINGLE) {
            SINGLE
        } else if has(INDEX) {
            INDEX
        } else {
            return Err(self.no_weights(&files));
        };
        for file in REQUIRED {
            self.file(file)?;
        }
        self.optional(&files)?;
        // Weights come last: where they are in the cache, all the rest is.
        let path = self.file(weights)?;
        if weights == INDEX {
            let index = std::fs::read_to_string(&path).map_err(|source| LoadError::Io { path, source })?;
            for shard in shards(&index)? {
                self.file(&shard)?;
            }
        }
        cached_model(&self.cached)
            .map_err(|file| self.error(&file, "it is not in the cache after its download"))
    }

    /// Names of all files that the hub has.
    fn files(&self) -> Result<Vec<String>, LoadError> {
        let info = self.api.info().map_err(|error| self.error("its list of files", error))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
    }

    /// Gets the optional ones of `files`, and notes which are not among them.
    fn optional(&self, files: &[String]) -> Result<(), LoadError> {
        let config = self.file(CONFIG)?;
        for name in optional() {
            if files.iter().any(|file| file == name) {
                self.file(name)?;
            } else if let Some(note) = config.parent().and_then(|folder| absent(folder, name)) {
                // Without the note, the hub is asked again next time.
                let folder = note.parent().unwrap_or(&note);
                let _ = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&note, []));
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> Result<PathBuf, LoadError> {
        if let Some(path) = self.cached.get(name) {
            return Ok(path);
        }
        let bar = Bar { name, progress: self.progress, begun: false };
        self.api.download_with_progress(name, bar).map_err(|error| self.error(name, error))
    }

    fn no_weights(&self, files: &[String]) -> LoadError {
        let gguf: Vec<&str> =
            files.iter().map(String::as_str).filter(|file| file.ends_with(".gguf")).collect();
        let reason = if gguf.is_empty() {
            "the model has no safetensors weights".to_owned()
        } else {
            format!("the model comes as GGUF; download one of these and pass its path: {}", gguf.join(", "))
        };
        self.error(SINGLE, reason)
    }

    fn error(&self, file: &str, reason: impl ToString) -> LoadError {
        LoadError::Hub { repo: self.name.to_owned(), file: file.to_owned(), reason: reason.to_string() }
    }
}

/// Passes the hub's progress on to ours.
struct Bar<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
    begun: bool,
}

impl hf_hub::api::Progress for Bar<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        // The hub's client says so twice, and again when it resumes.
        if !self.begun {
            self.progress.begin(&Task { name: self.name, total: size as u64, unit: Unit::Bytes });
            self.begun = true;
        }
    }

    fn update(&mut self, size: usize) {
        self.progress.advance(size as u64);
    }

    fn finish(&mut self) {
        self.progress.end();
    }
}
