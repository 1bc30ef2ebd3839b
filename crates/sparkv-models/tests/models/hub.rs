//! The hub: its cache offline, and a small server in its place.
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::common::{demo_folder, greedy};
use crate::fake_hub::{FakeHub, REPO};
use sparkv_models::progress::{Progress, Task, Unit};
use sparkv_models::{HubFiles, HubOptions, LanguageModel, LoadError, LoadOptions, ModelSource, hub, load};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn options(cache: &Path, endpoint: &str, offline: bool) -> HubOptions {
    HubOptions { cache: Some(cache.to_owned()), endpoint: endpoint.to_owned(), token: None, offline }
}

/// The cache as Hugging Face's tools leave it.
fn fill_cache(cache: &Path, files: &[&str]) {
    let repo = cache.join("models--sparkv-tests--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for file in files {
        std::fs::copy(demo_folder().join(file), snapshot.join(file)).unwrap();
    }
}

#[test]
fn a_model_in_the_cache_loads_offline() {
    let cache = tempfile::tempdir().unwrap();
    fill_cache(cache.path(), &FILES);
    let options =
        LoadOptions { hub: options(cache.path(), "http://127.0.0.1:9", true), ..LoadOptions::default() };
    let model = load(&ModelSource::Hub(REPO.parse().unwrap()), &options, &()).unwrap();
    assert_eq!(model.name, REPO);
    assert_eq!(model.decoder.info().eos_token_ids, [1]);
    assert_eq!(greedy(&model.decoder, &[0, 17, 30], 3).len(), 3);
}

#[test]
fn what_the_cache_lacks_is_named_offline() {
    for lacking in ["config.json", "tokenizer.json", "model.safetensors"] {
        let cache = tempfile::tempdir().unwrap();
        let files: Vec<&str> = FILES.into_iter().filter(|file| *file != lacking).collect();
        fill_cache(cache.path(), &files);
        let error = fetch(REPO, &options(cache.path(), "http://127.0.0.1:9", true), &()).unwrap_err();
        assert!(matches!(&error, LoadError::NotCached { file, .. } if file == lacking), "{error}");
        assert!(error.to_string().starts_with("offline"), "{error}");
    }
}

/// What a model may do without: the demo model has the first two.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.json",
];

#[test]
fn optional_files_that_the_cache_lacks_are_asked_for_once() {
    // All ways to lack some of those that the hub has.
    for lacking in [&OPTIONAL[..0], &OPTIONAL[..1], &OPTIONAL[1..2], &OPTIONAL[..2]] {
        let server = serve();
        let endpoint = &server.endpoint;
        let cache = tempfile::tempdir().unwrap();
        let files: Vec<&str> = FILES.into_iter().filter(|file| !lacking.contains(file)).collect();
        fill_cache(cache.path(), &files);
        let fetch = |offline| fetch(REPO, &options(cache.path(), endpoint, offline), &()).unwrap();
        let folder = fetch(false);
        for file in FILES {
            assert_eq!(
                std::fs::read(folder.join(file)).unwrap(),
                std::fs::read(demo_folder().join(file)).unwrap(),
                "{file}"
            );
        }
        let before = server.asked();
        let resolved = |path: &&String| path.contains("/resolve/");
        let downloads = before.iter().filter(resolved).filter(|path| !path.contains(COMMIT)).count();
        assert_eq!(downloads, 0, "what is added to the cache is of its commit: {before:?}");
        let others = |path: &&String| !lacking.iter().any(|file| path.ends_with(file));
        assert_eq!(before.iter().filter(resolved).filter(others).count(), 0, "{before:?}");
        assert_eq!((fetch(false), fetch(true)), (folder.clone(), folder));
        assert_eq!(server.asked(), before, "the second time, nothing is asked");
        let hub = options(cache.path(), endpoint, true);
        let options = LoadOptions { hub, ..LoadOptions::default() };
        let text = load(&ModelSource::Hub(REPO.parse().unwrap()), &options, &()).unwrap().text;
        assert!(text.chat_template.is_some() && text.not_cached.is_empty(), "{:?}", text.not_cached);
    }
}

#[test]
fn what_may_be_missing_is_told_where_the_hub_cannot_be_asked() {
    for lacking in 0..1usize << OPTIONAL.len() {
        let lacks = |file: &str| {
            OPTIONAL.iter().position(|name| *name == file).is_some_and(|at| lacking >> at & 1 == 1)
        };
        let cache = tempfile::tempdir().unwrap();
        let files: Vec<&str> = FILES.into_iter().filter(|file| !lacks(file)).collect();
        fill_cache(cache.path(), &files);
        let repo = cache.path().join("models--sparkv-tests--tiny");
        // What the demo model does not have, the cache may know to be absent.
        for file in OPTIONAL.into_iter().filter(|file| !FILES.contains(file) && !lacks(file)) {
            let note = repo.join(".no_exist").join(COMMIT).join(file);
            std::fs::create_dir_all(note.parent().unwrap()).unwrap();
            std::fs::write(note, "").unwrap();
        }
        for offline in [true, false] {
            let hub = options(cache.path(), "http://127.0.0.1:9", offline);
            let options = LoadOptions { hub, ..LoadOptions::default() };
            let text = load(&ModelSource::Hub(REPO.parse().unwrap()), &options, &()).unwrap().text;
            let expected: Vec<&str> = OPTIONAL.into_iter().filter(|file| lacks(file)).collect();
            assert_eq!(text.not_cached, expected);
        }
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(REPO, &options(cache.path(), "http://127.0.0.1:9", false), &()).unwrap_err();
    assert!(matches!(&error, LoadError::Hub { repo, .. } if repo == REPO), "{error}");
}

/// What was downloaded: name, size and bytes heard of, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, u64, u64)>>);

impl Progress for Heard {
    fn begin(&self, task: &Task<'_>) {
        assert_eq!(task.unit, Unit::Bytes);
        self.0.lock().unwrap().push((task.name.to_owned(), task.total, 0));
    }

    fn advance(&self, amount: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += amount;
    }

    fn end(&self) {
        let (name, total, heard) = self.0.lock().unwrap().last().unwrap().clone();
        assert_eq!(heard, total, "{name}");
    }
}

/// A hub that has the demo model.
fn serve() -> FakeHub {
    let hub = FakeHub::start();
    let contents = FILES.map(|file| std::fs::read(demo_folder().join(file)).unwrap());
    let files: Vec<_> = FILES.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
    hub.commit("main", COMMIT, &files);
    hub
}

/// The folder that a model in Hugging Face's layout is in.
fn fetch(name: &str, options: &HubOptions, progress: &dyn Progress) -> Result<PathBuf, LoadError> {
    match hub::fetch(&name.parse().unwrap(), options, progress)? {
        HubFiles::Folder(folder) => Ok(folder),
        HubFiles::Gguf(path) => panic!("{} is no folder", path.display()),
    }
}

#[test]
fn a_model_is_downloaded_once_with_progress() {
    let server = serve();
    let endpoint = &server.endpoint;
    let cache = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let folder = fetch(REPO, &options(cache.path(), endpoint, false), &heard).unwrap();
    for file in FILES {
        let (found, expected) = (folder.join(file), demo_folder().join(file));
        assert_eq!(std::fs::read(found).unwrap(), std::fs::read(&expected).unwrap(), "{file}");
        let bytes = std::fs::metadata(expected).unwrap().len();
        assert!(heard.0.lock().unwrap().contains(&(file.to_owned(), bytes, bytes)), "{file}");
    }
    let asked_before = server.asked().len();
    assert!(asked_before > FILES.len());
    assert_eq!(fetch(REPO, &options(cache.path(), endpoint, false), &()).unwrap(), folder);
    assert_eq!(fetch(REPO, &options(cache.path(), endpoint, true), &()).unwrap(), folder);
    assert_eq!(server.asked().len(), asked_before, "the second time came from the cache");
}

#[test]
fn a_model_the_hub_does_not_have_is_an_error() {
    let endpoint = &serve().endpoint;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch("sparkv-tests/none", &options(cache.path(), endpoint, false), &()).unwrap_err();
    assert!(matches!(&error, LoadError::Hub { .. }) && error.to_string().contains("404"), "{error}");
}
