//! Models from the Hugging Face hub, through its standard cache.
pub(crate) mod cache;
mod download;
mod fault;
pub(crate) mod name;
pub(crate) mod quantizations;
pub(crate) mod removal;
pub(crate) mod repo;

use std::path::{Path, PathBuf};

use crate::error::LoadError;
use crate::progress::Progress;
pub use cache::list;
use download::Download;
use name::HubName;
use repo::{CachedRepo, HubFiles, files_in, not_cached};

/// How to reach the hub. The default reads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_OFFLINE,
/// as Hugging Face's own tools do.
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
        let home = || std::env::home_dir().map(|home| home.join(".cache"));
        let home = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let home = home.map(|home| home.join("huggingface"));
        let home = variable("HF_HOME").map(PathBuf::from).or(home);
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| home.as_deref().map(|home| home.join("hub")));
        let saved = || {
            let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")))?;
            let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN").or_else(saved),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| {
                !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off")
            }),
            cache,
        }
    }
}

impl HubOptions {
    /// The cache's folder.
    fn cache(&self, name: &HubName) -> Result<&Path, LoadError> {
        self.cache.as_deref().ok_or_else(|| LoadError::Hub {
            repo: name.repo.clone(),
            file: "anything".to_owned(),
            reason: "there is no cache folder; set HF_HOME".to_owned(),
        })
    }
}

/// Makes sure that the cache has all files of a model, and returns where they are: its GGUF files, if the name has a tag
/// or the model nothing else, or those in Hugging Face's layout.
///
/// Asks the hub only for what the cache lacks, once only whether there are those that a model may do without, and without
/// a tag whether there is the usual quantization, if another is in the cache.
///
/// # Errors
/// If the hub cannot be reached, has no such model, or the model is in no format that can be loaded; when
/// offline, if the cache lacks a file.
pub fn fetch(name: &HubName, options: &HubOptions, progress: &dyn Progress) -> Result<HubFiles, LoadError> {
    let found = CachedRepo::new(options.cache(name)?, &name.repo).find(name);
    match found {
        Ok(found) if options.offline || is_settled(&found, name) => Ok(found),
        Ok(HubFiles::Folder(folder)) => {
            // A model that can be loaded is not held up by a hub that cannot be reached; `not_cached` tells of it.
            let commit = folder.file_name().and_then(|commit| commit.to_str());
            let _ =
                Download::new(name, commit, options, progress, true).and_then(|download| download.optional());
            Ok(HubFiles::Folder(folder))
        }
        Ok(found) => match Download::new(name, None, options, progress, true) {
            Ok(download) => download.patient().model(),
            Err(_) => Ok(found),
        },
        Err(missing) if options.offline => Err(not_there(name, options, missing)),
        Err(_) => Download::new(name, None, options, progress, false)?.model(),
    }
}

/// Makes sure that the cache has those files of a model that one of `patterns` fits, as `*.json`, and returns their paths.
///
/// # Errors
/// As of [`fetch`]; if a pattern is none, or fits no file.
pub fn fetch_files(
    name: &HubName,
    patterns: &[String],
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, LoadError> {
    let parse = |pattern: &String| {
        glob::Pattern::new(pattern).map_err(|error| LoadError::Hub {
            repo: name.repo.clone(),
            file: format!("`{pattern}`"),
            reason: error.to_string(),
        })
    };
    let patterns = patterns.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if !options.offline {
        return Download::new(name, None, options, progress, false)?.matching(&patterns);
    }
    let folder = CachedRepo::new(options.cache(name)?, &name.repo).of_revision(name.revision.as_deref());
    let files = folder.iter().flat_map(|folder| files_in(folder)).collect::<Vec<_>>();
    if let Some(pattern) = patterns.iter().find(|pattern| !files.iter().any(|file| pattern.matches(file))) {
        return Err(not_there(name, options, format!("`{pattern}`")));
    }
    let fit = files.iter().filter(|file| patterns.iter().any(|pattern| pattern.matches(file)));
    Ok(fit.flat_map(|file| folder.iter().map(move |folder| folder.join(file))).collect())
}

/// Whether all files of a model are in the cache, so that it loads without the hub.
pub fn is_cached(name: &HubName, options: &HubOptions) -> bool {
    options.cache.as_ref().is_some_and(|cache| CachedRepo::new(cache, &name.repo).find(name).is_ok())
}

/// Whether there is nothing to ask the hub for: without a tag, another quantization would be taken if there is one.
fn is_settled(found: &HubFiles, name: &HubName) -> bool {
    match found {
        HubFiles::Folder(folder) => not_cached(folder).is_empty(),
        HubFiles::Gguf(path) => name.tag.is_some() || quantizations::is_default(path),
    }
}

fn not_there(name: &HubName, options: &HubOptions, file: String) -> LoadError {
    let cache = options.cache.clone().unwrap_or_default();
    LoadError::NotCached { name: name.to_string(), file, cache }
}
