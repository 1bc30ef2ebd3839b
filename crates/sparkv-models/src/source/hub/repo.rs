//! A model's folder in the cache, as all of Hugging Face's tools lay it out: `refs` name commits, `snapshots` have a folder
//! for each commit, whose files are links into `blobs`.
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::source::folder::{CONFIG, GENERATION};
use crate::source::hub::name::HubName;
use crate::source::hub::quantizations::{Quantization, choose, quantizations};
use crate::source::safetensors::{INDEX, SINGLE, shards};
use crate::source::text;

/// Files without which no model in safetensors can be loaded.
pub(crate) const REQUIRED: [&str; 2] = [CONFIG, text::TOKENIZER];

/// Where Hugging Face's tools note, by an empty file in a folder of the commit's name, that a commit has no file of that
/// name.
pub(crate) const NO_EXIST: &str = ".no_exist";

/// The revision that is meant where none is named.
pub(crate) const MAIN: &str = "main";

/// Fewest letters that a commit may be abbreviated to.
const SHORTEST: usize = 7;

/// Files that are used where they exist.
pub(crate) fn optional() -> impl Iterator<Item = &'static str> {
    std::iter::once(GENERATION).chain(text::OPTIONAL)
}

/// Where the files of a model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubFiles {
    /// A folder in Hugging Face's layout.
    Folder(PathBuf),
    /// A GGUF file; of one in parts, the first.
    Gguf(PathBuf),
}

/// A repository's folder in the cache; it need not be there.
#[derive(Debug, Clone)]
pub(crate) struct CachedRepo {
    /// The folder.
    pub(crate) path: PathBuf,
}

impl CachedRepo {
    /// Of the model `repo`, ORG/NAME.
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        Self { path: cache.join(format!("models--{}", repo.replace('/', "--"))) }
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    /// The folder of the files of a branch, a tag or a commit, which may be abbreviated.
    pub(crate) fn of_revision(&self, revision: Option<&str>) -> Option<PathBuf> {
        let revision = revision.unwrap_or(MAIN);
        let commit = match std::fs::read_to_string(self.path.join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => self.commit_beginning(revision)?,
        };
        let folder = self.snapshot(&commit);
        (is_name(&commit) && folder.is_dir()).then_some(folder)
    }

    /// The one commit that begins so.
    fn commit_beginning(&self, revision: &str) -> Option<String> {
        let mut meant = self.commits().into_iter().filter(|commit| commit.starts_with(revision));
        let commit = meant.next().filter(|_| revision.len() >= SHORTEST)?;
        meant.next().is_none().then_some(commit)
    }

    /// The commits there are folders of.
    pub(crate) fn commits(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.path.join("snapshots")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The files that `name` means, if all of them are in the cache, else what is missing.
    pub(crate) fn find(&self, name: &HubName) -> Result<HubFiles, String> {
        let folder = self.of_revision(name.revision.as_deref());
        let folder = folder.ok_or_else(|| name.tag.clone().unwrap_or_else(|| CONFIG.to_owned()))?;
        let gguf = gguf_in(&folder);
        if name.tag.is_none() {
            match missing(&folder) {
                None => return Ok(HubFiles::Folder(folder)),
                Some(file) if gguf.is_empty() => return Err(file),
                Some(_) => {}
            }
        }
        let complete: Vec<Quantization> = gguf.into_iter().filter(|model| model.complete).collect();
        let chosen = choose(&complete, name.tag.as_deref());
        let missing = |reason| format!("{} ({reason})", name.tag.as_deref().unwrap_or("a GGUF file"));
        chosen.map(|model| HubFiles::Gguf(folder.join(model.first()))).map_err(missing)
    }
}

/// The GGUF models of which there are files in a folder.
pub(crate) fn gguf_in(folder: &Path) -> Vec<Quantization> {
    quantizations(files_in(folder).iter().map(String::as_str))
}

/// The files below a folder, by their paths in it with slashes between; those whose contents are gone left out.
pub(crate) fn files_in(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        // A link to a folder is none of the hub's, and may lead anywhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_in(&path).into_iter().map(|file| format!("{name}/{file}")));
        } else if path.is_file() {
            files.push(name);
        }
    }
    files
}

/// A file that a folder lacks of a model in safetensors.
pub(crate) fn missing(folder: &Path) -> Option<String> {
    let lacks = |file: &str| !folder.join(file).exists();
    if let Some(file) = REQUIRED.into_iter().find(|file| lacks(file)) {
        return Some(file.to_owned());
    }
    if !lacks(SINGLE) {
        return None;
    }
    if lacks(INDEX) {
        return Some(SINGLE.to_owned());
    }
    let index = std::fs::read_to_string(folder.join(INDEX)).ok();
    match index.and_then(|index| shards(&index).ok()) {
        Some(shards) => shards.into_iter().find(|shard| lacks(shard)),
        None => Some(INDEX.to_owned()),
    }
}

/// Optional files that the cache lacks, of the model in this folder of it, though the hub may have them.
pub(crate) fn not_cached(folder: &Path) -> Vec<&'static str> {
    let exists =
        |file: &str| folder.join(file).exists() || absent(folder, file).is_some_and(|note| note.exists());
    optional().filter(|file| !exists(file)).collect()
}

/// Where it is noted that the commit in this folder has no such file.
pub(crate) fn absent(folder: &Path, file: &str) -> Option<PathBuf> {
    Some(folder.parent()?.parent()?.join(NO_EXIST).join(folder.file_name()?).join(file))
}

/// Whether a text is the name of one file or folder, which leads nowhere else.
pub(crate) fn is_name(text: &str) -> bool {
    leads_down(text) && Path::new(text).components().count() == 1
}

/// Whether a path stays below where it begins.
pub(crate) fn leads_down(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
