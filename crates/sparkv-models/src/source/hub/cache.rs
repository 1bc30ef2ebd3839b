//! What the cache holds.
use std::path::Path;
use std::time::SystemTime;

use crate::source::ModelSource;
use crate::source::hub::HubOptions;
use crate::source::hub::name::HubName;
use crate::source::hub::quantizations::{Quantization, choose};
use crate::source::hub::repo::{CachedRepo, HubFiles, MAIN, files_in, gguf_in, missing};
use crate::source::safetensors::INDEX;

/// A model in the cache: one that can be named by itself.
#[derive(Debug, Clone)]
pub struct CachedModel {
    /// How `--model` names it.
    pub name: HubName,
    /// Its quantization as its file's name has it; `None` of a model in Hugging Face's layout.
    pub quantization: Option<String>,
    /// The commit.
    pub commit: String,
    /// What its files take on the disk.
    pub bytes: u64,
    /// When its weights were read last, as far as the file system notes that.
    pub used: Option<SystemTime>,
    /// Where it is.
    pub files: HubFiles,
    /// A file that it lacks.
    pub missing: Option<String>,
}

impl CachedModel {
    /// The same, as files.
    pub fn source(&self) -> ModelSource {
        match &self.files {
            HubFiles::Folder(path) => ModelSource::Folder(path.clone()),
            HubFiles::Gguf(path) => ModelSource::Gguf(path.clone()),
        }
    }
}

/// All models in the cache, by name.
pub fn list(options: &HubOptions) -> Vec<CachedModel> {
    let mut models = Vec::new();
    let Some(cache) = &options.cache else { return models };
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        // The first of the two is the organization's end: the hub has none of them in names.
        let repo = name.strip_prefix("models--").map(|name| name.replacen("--", "/", 1));
        if let Some(Ok(name)) = repo.map(|repo| repo.parse::<HubName>()) {
            let cached = CachedRepo::new(cache, &name.repo);
            models.extend(cached.commits().iter().flat_map(|commit| of_commit(&cached, &name, commit)));
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The models in the folder of a commit.
fn of_commit(cached: &CachedRepo, name: &HubName, commit: &str) -> Vec<CachedModel> {
    let folder = cached.snapshot(commit);
    let revisions = cached.revisions(commit);
    let revision = match revisions.iter().any(|revision| revision == MAIN) {
        true => None,
        false => Some(revisions.first().map_or(commit, String::as_str).to_owned()),
    };
    let gguf = gguf_in(&folder);
    let all = files_in(&folder);
    let model = |name: HubName, quantization, files: &[&str], at, missing| {
        let paths = files.iter().map(|file| folder.join(file));
        let metadata: Vec<_> = paths.filter_map(|path| path.metadata().ok()).collect();
        let used = metadata.iter().max_by_key(|metadata| metadata.len());
        let used = used.and_then(|weights| weights.accessed().or_else(|_| weights.modified()).ok());
        let bytes = metadata.iter().map(std::fs::Metadata::len).sum();
        CachedModel { name, quantization, commit: commit.to_owned(), bytes, used, files: at, missing }
    };
    let mut models = Vec::new();
    let in_gguf = |file: &&str| gguf.iter().any(|model| model.files.iter().any(|part| part == file));
    let others: Vec<&str> = all.iter().map(String::as_str).filter(|file| !in_gguf(file)).collect();
    let is_weights = |file: &&str| file.ends_with(".safetensors") || *file == INDEX || file.ends_with(".bin");
    if gguf.is_empty() || others.iter().any(is_weights) {
        let name = HubName { revision: revision.clone(), ..name.clone() };
        let at = HubFiles::Folder(folder.clone());
        models.push(model(name, None, &others, at, missing(&folder)));
    }
    for quantization in &gguf {
        let tag = Some(unambiguous_tag(&gguf, quantization));
        let name = HubName { tag, revision: revision.clone(), ..name.clone() };
        let files: Vec<&str> = quantization.files.iter().map(String::as_str).collect();
        let lacks = |file: &&&str| !folder.join(file).is_file();
        let missing = files.iter().find(lacks).map(|file| (*file).to_owned());
        let at = HubFiles::Gguf(folder.join(quantization.first()));
        models.push(model(name, Some(quantization.tag()), &files, at, missing));
    }
    models
}

/// The quantization, or if others are called so, too, the path of the file.
fn unambiguous_tag(all: &[Quantization], one: &Quantization) -> String {
    let tag = one.tag();
    if choose(all, Some(&tag)).is_ok() { tag } else { one.first().to_owned() }
}

impl CachedRepo {
    /// The branches and tags that are noted to be this commit, by name.
    pub(super) fn revisions(&self, commit: &str) -> Vec<String> {
        let refs = self.path.join("refs");
        let is = |path: &Path| std::fs::read_to_string(path).is_ok_and(|found| found.trim() == commit);
        let mut revisions = files_in(&refs);
        revisions.retain(|revision| is(&refs.join(revision)) && revision != commit);
        revisions.sort();
        revisions
    }
}
