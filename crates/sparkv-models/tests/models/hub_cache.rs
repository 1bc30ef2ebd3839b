//! What the hub's cache holds, and what is taken out of it.
#![cfg(unix)]
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::demo_folder;
use sparkv_models::{HubOptions, LoadError, Removal, check, hub};
use tempfile::TempDir;

const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A cache as Hugging Face's tools fill it.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> HubOptions {
        let cache = Some(self.0.path().to_owned());
        HubOptions { cache, endpoint: "http://127.0.0.1:9".to_owned(), token: None, offline: true }
    }

    fn repo(&self, repo: &str) -> PathBuf {
        self.0.path().join(format!("models--{}", repo.replace('/', "--")))
    }

    /// A commit under the name of a revision; files of the same content share a blob.
    fn commit(&self, repo: &str, revision: &str, commit: &str, files: &[(&str, &[u8])]) {
        let repo = self.repo(repo);
        let note = repo.join("refs").join(revision);
        std::fs::create_dir_all(note.parent().unwrap()).unwrap();
        std::fs::write(note, commit).unwrap();
        std::fs::create_dir_all(repo.join("blobs")).unwrap();
        for (name, bytes) in files {
            let blob = repo.join("blobs").join(format!("{:x}-{}", bytes.len(), bytes[0]));
            std::fs::write(&blob, bytes).unwrap();
            let link = repo.join("snapshots").join(commit).join(name);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(blob, link).unwrap();
        }
    }

    /// Plans and runs a removal; the bytes that it frees.
    fn remove(&self, name: &str) -> Result<u64, LoadError> {
        let removal = Removal::plan(&name.parse().unwrap(), &self.options())?;
        let before = size(self.0.path());
        removal.run()?;
        // Notes of revisions count for nothing.
        assert!(before - size(self.0.path()) >= removal.bytes);
        assert!(before - size(self.0.path()) - removal.bytes < 100);
        Ok(removal.bytes)
    }

    fn names(&self) -> Vec<String> {
        hub::list(&self.options()).iter().map(|model| model.name.to_string()).collect()
    }
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => size(&entry.path()),
        metadata if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}

fn blobs(repo: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(repo.join("blobs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn models_are_listed_by_the_names_that_load_them() {
    let cache = Cache::new();
    let demo: Vec<(&str, Vec<u8>)> = ["config.json", "tokenizer.json", "model.safetensors"]
        .map(|file| (file, std::fs::read(demo_folder().join(file)).unwrap()))
        .into();
    let demo: Vec<(&str, &[u8])> = demo.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    cache.commit("a/demo", "main", FIRST, &demo);
    cache.commit("a/demo", "v1", SECOND, &demo[..2]);
    cache.commit("b/gguf", "dev", FIRST, &[("x-Q8_0.gguf", b"12345"), ("x-Q4_0-00001-of-00002.gguf", b"1")]);
    cache.commit(
        "b/gguf",
        "main",
        SECOND,
        &[("README.md", b"1"), ("a-Q8_0.gguf", b"12"), ("b-Q8_0.gguf", b"3")],
    );
    std::fs::create_dir_all(cache.0.path().join("datasets--c--d/snapshots").join(FIRST)).unwrap();
    std::fs::create_dir_all(cache.0.path().join("models--gpt2/snapshots").join(FIRST)).unwrap();
    let models = hub::list(&cache.options());
    let shown: Vec<_> = models
        .iter()
        .map(|model| (model.name.to_string(), model.quantization.as_deref(), model.missing.as_deref()))
        .collect();
    let row = |name: &str, quantization, missing| (name.to_owned(), quantization, missing);
    assert_eq!(
        shown,
        [
            row("a/demo", None, None),
            row("a/demo@v1", None, Some("model.safetensors")),
            row("b/gguf:Q4_0@dev", Some("Q4_0"), Some("x-Q4_0-00002-of-00002.gguf")),
            row("b/gguf:Q8_0@dev", Some("Q8_0"), None),
            row("b/gguf:a-Q8_0.gguf", Some("Q8_0"), None),
            row("b/gguf:b-Q8_0.gguf", Some("Q8_0"), None),
        ]
    );
    let bytes: u64 = demo.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!((models[0].bytes, models[3].bytes, models[4].bytes), (bytes, 5, 2));
    assert!(models[0].used.is_some() && models[0].commit == FIRST);
    assert!(check(&models[0].source()).is_ok());
    let error = check(&models[3].source()).unwrap_err().to_string();
    assert!(error.contains("x-Q8_0.gguf is corrupt"), "{error}");
    for model in models.iter().filter(|model| model.missing.is_none()) {
        assert!(hub::is_cached(&model.name, &cache.options()), "{}", model.name);
        assert_eq!(hub::fetch(&model.name, &cache.options(), &()).unwrap(), model.files);
    }
}

#[test]
fn a_removed_quantization_leaves_the_others_and_what_they_share() {
    let cache = Cache::new();
    let two: [(&str, &[u8]); 3] =
        [("README.md", b"r"), ("x-Q4_0.gguf", b"4444"), ("x-Q8_0.gguf", b"88888888")];
    cache.commit("a/b", "main", FIRST, &two);
    // The same Q8_0 in another commit.
    cache.commit("a/b", "dev", SECOND, &two[2..]);
    cache.commit("a/bb", "main", FIRST, &two);
    assert_eq!(cache.remove("a/b:q4_0").unwrap(), 4);
    assert_eq!(cache.names(), ["a/b:Q8_0", "a/b:Q8_0@dev", "a/bb:Q4_0", "a/bb:Q8_0"]);
    assert_eq!(cache.remove("a/b@dev").unwrap(), 0, "main has the same file");
    assert_eq!(cache.names(), ["a/b:Q8_0", "a/bb:Q4_0", "a/bb:Q8_0"]);
    assert!(!cache.repo("a/b").join("refs/dev").exists());
    assert!(!cache.repo("a/b").join("snapshots").join(SECOND).exists());
    assert_eq!(cache.remove("a/b:Q8_0").unwrap(), 8);
    assert_eq!(blobs(&cache.repo("a/b")).len(), 1, "README.md is there");
    assert_eq!(cache.remove("a/b").unwrap(), 1 + FIRST.len() as u64);
    assert!(!cache.repo("a/b").exists());
    assert_eq!(cache.remove("a/bb@main").unwrap(), 13);
    assert!(!cache.repo("a/bb").exists(), "nothing is left of it");
}

#[test]
fn what_is_not_there_is_not_removed_and_the_rest_stays() {
    let cache = Cache::new();
    cache.commit("a/b", "main", FIRST, &[("x-Q4_0.gguf", b"4"), ("y-Q4_0.gguf", b"5")]);
    let before = size(cache.0.path());
    for name in ["a/c", "a/b:Q8_0", "a/b:Q4_0", "a/b@v2", "a/b:Q4_0@v2"] {
        let error = cache.remove(name).unwrap_err();
        assert!(matches!(error, LoadError::NotInCache { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(size(cache.0.path()), before);
}

#[test]
fn nothing_is_removed_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    let intact = || std::fs::read_to_string(&precious).unwrap() == "precious";

    // Links out of the cache, of files and of folders.
    let cache = Cache::new();
    cache.commit("a/b", "main", FIRST, &[("x-Q4_0.gguf", b"4")]);
    let snapshot = cache.repo("a/b").join("snapshots").join(FIRST);
    symlink(&precious, snapshot.join("y-Q8_0.gguf")).unwrap();
    symlink(outside.path(), snapshot.join("folder")).unwrap();
    symlink(outside.path(), cache.repo("a/b").join("blobs/folder")).unwrap();
    assert_eq!(cache.remove("a/b:Q8_0").unwrap(), 0);
    assert!(intact() && !snapshot.join("y-Q8_0.gguf").is_symlink());
    cache.remove("a/b").unwrap();
    assert!(intact() && !cache.repo("a/b").exists());

    // The model's own folders as links.
    for folder in ["", "blobs", "snapshots"] {
        let cache = Cache::new();
        cache.commit("a/b", "main", FIRST, &[("x-Q4_0.gguf", b"4")]);
        let (here, there) = (cache.repo("a/b").join(folder), outside.path().join("moved"));
        let here = if folder.is_empty() { cache.repo("a/b") } else { here };
        std::fs::rename(&here, &there).unwrap();
        symlink(&there, &here).unwrap();
        for name in ["a/b", "a/b:Q4_0"] {
            let error = cache.remove(name).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
        std::fs::remove_dir_all(there).unwrap();
    }
    assert!(intact());
}
