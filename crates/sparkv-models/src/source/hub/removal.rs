//! Taking models out of the cache.
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::LoadError;
use crate::source::hub::HubOptions;
use crate::source::hub::name::HubName;
use crate::source::hub::quantizations::choose;
use crate::source::hub::repo::{CachedRepo, NO_EXIST, files_in, gguf_in};

/// What is to be removed for a model to be gone: nothing has been yet.
///
/// Everything is within the model's own folder of the cache. Links are removed as links, and nothing is reached through
/// one but files in `blobs` that no other link leads to.
#[derive(Debug)]
pub struct Removal {
    cached: CachedRepo,
    /// All of it goes.
    whole: bool,
    /// Links in `snapshots`, or files where links are not to be had.
    links: Vec<PathBuf>,
    /// Files in `blobs` that nothing leads to any more.
    blobs: Vec<PathBuf>,
    /// Bytes that will be free.
    pub bytes: u64,
}

impl Removal {
    /// What is to be removed of `name`: without tag and revision all there is, with a tag its files of every commit,
    /// unless a revision says which.
    ///
    /// # Errors
    /// If the cache does not have it, or something there is not what Hugging Face's tools put there.
    pub fn plan(name: &HubName, options: &HubOptions) -> Result<Self, LoadError> {
        let cached = CachedRepo::new(options.cache(name)?, &name.repo);
        for folder in [cached.path.clone(), cached.path.join("snapshots"), cached.path.join("blobs")] {
            refuse_link(&folder)?;
        }
        let not_there = |reason: &str| LoadError::NotInCache {
            name: name.to_string(),
            reason: reason.to_owned(),
            cache: options.cache.clone().unwrap_or_default(),
        };
        if !cached.path.is_dir() {
            return Err(not_there("there is nothing of this model"));
        }
        let mut removal = Self { cached, whole: false, links: Vec::new(), blobs: Vec::new(), bytes: 0 };
        if name.tag.is_none() && name.revision.is_none() {
            removal.whole = true;
            removal.bytes = bytes_in(&removal.cached.path);
            return Ok(removal);
        }
        let folders = match &name.revision {
            Some(revision) => removal.cached.of_revision(Some(revision)).into_iter().collect(),
            None => removal.snapshots(),
        };
        let mut reason = "there is no such revision".to_owned();
        for folder in folders {
            refuse_link(&folder)?;
            let files = match name.tag.as_deref() {
                None => files_in(&folder),
                tag => match choose(&gguf_in(&folder), tag) {
                    Ok(model) => model.files.clone(),
                    Err(fault) => {
                        reason = fault;
                        continue;
                    }
                },
            };
            let paths = files.into_iter().map(|file| folder.join(file));
            removal.links.extend(paths.filter(|path| path.symlink_metadata().is_ok()));
        }
        if removal.links.is_empty() {
            return Err(not_there(&reason));
        }
        removal.find_blobs();
        Ok(removal)
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.cached.path
    }

    /// Removes it.
    ///
    /// # Errors
    /// If something cannot be removed; what has been is gone.
    pub fn run(&self) -> Result<(), LoadError> {
        let error = |path: &Path, source| LoadError::Remove { path: path.to_owned(), source };
        // Links within it are removed, not followed.
        let remove_all = |path: &Path| std::fs::remove_dir_all(path).map_err(|source| error(path, source));
        if self.whole {
            return remove_all(&self.cached.path);
        }
        for path in self.links.iter().chain(&self.blobs) {
            std::fs::remove_file(path).map_err(|source| error(path, source))?;
        }
        for folder in self.snapshots().into_iter().filter(|folder| files_in(folder).is_empty()) {
            let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            remove_all(&folder)?;
            let refs = self.cached.path.join("refs");
            for revision in self.cached.revisions(&commit) {
                let path = refs.join(revision);
                std::fs::remove_file(&path).map_err(|source| error(&path, source))?;
            }
            let notes = self.cached.path.join(NO_EXIST).join(&commit);
            if notes.symlink_metadata().is_ok_and(|notes| notes.is_dir()) {
                remove_all(&notes)?;
            }
        }
        if self.snapshots().is_empty() { remove_all(&self.cached.path) } else { Ok(()) }
    }

    /// The folders of all commits.
    fn snapshots(&self) -> Vec<PathBuf> {
        self.cached.commits().iter().map(|commit| self.cached.snapshot(commit)).collect()
    }

    /// Settles which blobs the links alone lead to, and what is freed.
    fn find_blobs(&mut self) {
        let links: BTreeSet<&PathBuf> = self.links.iter().collect();
        let snapshots = self.snapshots();
        let of_folder = |folder: &PathBuf| {
            let folder = folder.clone();
            files_in(&folder).into_iter().map(move |file| folder.join(file)).collect::<Vec<_>>()
        };
        let others = snapshots.iter().flat_map(of_folder).filter(|path| !links.contains(path));
        let kept: BTreeSet<PathBuf> = others.filter_map(|path| self.blob(&path)).collect();
        let blobs: BTreeSet<PathBuf> = links.iter().filter_map(|path| self.blob(path)).collect();
        let size = |path: &PathBuf| path.symlink_metadata().map_or(0, |metadata| metadata.len());
        let blobs: Vec<PathBuf> = blobs.difference(&kept).cloned().collect();
        let is_file = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        let files = self.links.iter().filter(is_file).map(size).sum::<u64>();
        self.bytes = files + blobs.iter().map(size).sum::<u64>();
        self.blobs = blobs;
    }

    /// The file in `blobs` that a link leads to; `None` if it leads elsewhere or is none.
    fn blob(&self, link: &Path) -> Option<PathBuf> {
        link.read_link().ok()?;
        let target = link.canonicalize().ok()?;
        let blobs = self.cached.path.join("blobs");
        if target.parent()? != blobs.canonicalize().ok()? {
            return None;
        }
        let blob = blobs.join(target.file_name()?);
        blob.symlink_metadata().is_ok_and(|metadata| metadata.is_file()).then_some(blob)
    }
}

/// Nothing is removed through a link.
fn refuse_link(path: &Path) -> Result<(), LoadError> {
    if path.is_symlink() {
        let source = io::Error::other("it is a symbolic link, through which nothing is removed");
        return Err(LoadError::Remove { path: path.to_owned(), source });
    }
    Ok(())
}

/// What the files below a folder take, links not followed.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    bytes.sum()
}
