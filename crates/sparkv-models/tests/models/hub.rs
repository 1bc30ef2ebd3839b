//! The hub: its cache offline, and a small server in its place.
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::{demo_folder, greedy};
use sparkv_models::progress::{Progress, Task, Unit};
use sparkv_models::{HubOptions, LanguageModel, LoadError, LoadOptions, ModelSource, hub, load};

const REPO: &str = "sparkv-tests/tiny";
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
    let model = load(&ModelSource::Hub(REPO.to_owned()), &options, &()).unwrap();
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
        let error = hub::fetch(REPO, &options(cache.path(), "http://127.0.0.1:9", true), &()).unwrap_err();
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
        let (endpoint, asked) = serve();
        let cache = tempfile::tempdir().unwrap();
        let files: Vec<&str> = FILES.into_iter().filter(|file| !lacking.contains(file)).collect();
        fill_cache(cache.path(), &files);
        let fetch = |offline| hub::fetch(REPO, &options(cache.path(), &endpoint, offline), &()).unwrap();
        let folder = fetch(false);
        for file in FILES {
            assert_eq!(
                std::fs::read(folder.join(file)).unwrap(),
                std::fs::read(demo_folder().join(file)).unwrap(),
                "{file}"
            );
        }
        let asked = || asked.lock().unwrap().clone();
        let before = asked();
        let resolved = |path: &&String| path.contains("/resolve/");
        let downloads = before.iter().filter(resolved).filter(|path| !path.contains(COMMIT)).count();
        assert_eq!(downloads, 0, "what is added to the cache is of its commit: {before:?}");
        let others = |path: &&String| !lacking.iter().any(|file| path.ends_with(file));
        assert_eq!(before.iter().filter(resolved).filter(others).count(), 0, "{before:?}");
        assert_eq!((fetch(false), fetch(true)), (folder.clone(), folder));
        assert_eq!(asked(), before, "the second time, nothing is asked");
        let hub = options(cache.path(), &endpoint, true);
        let options = LoadOptions { hub, ..LoadOptions::default() };
        let text = load(&ModelSource::Hub(REPO.to_owned()), &options, &()).unwrap().text;
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
            let text = load(&ModelSource::Hub(REPO.to_owned()), &options, &()).unwrap().text;
            let expected: Vec<&str> = OPTIONAL.into_iter().filter(|file| lacks(file)).collect();
            assert_eq!(text.not_cached, expected);
        }
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let error = hub::fetch(REPO, &options(cache.path(), "http://127.0.0.1:9", false), &()).unwrap_err();
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

/// A server that answers for the hub with the demo model's files; returns its address and the paths it was
/// asked for.
fn serve() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &log);
        }
    });
    (address, asked)
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return };
    log.lock().unwrap().push(path.to_owned());
    let range =
        lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (status, headers, body) = respond(path, range.as_deref());
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).ok();
}

fn respond(path: &str, range: Option<&str>) -> (&'static str, String, Vec<u8>) {
    let at = |path: &str| ["main", COMMIT].map(|revision| path.replace("REVISION", revision));
    if at(&format!("/api/models/{REPO}/revision/REVISION")).iter().any(|info| info == path) {
        let siblings: Vec<_> = FILES.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
        let info = serde_json::json!({"sha": COMMIT, "siblings": siblings});
        return ("200 OK", "Content-Type: application/json\r\n".to_owned(), info.to_string().into_bytes());
    }
    let places = at(&format!("/{REPO}/resolve/REVISION/"));
    let file = places.iter().find_map(|place| path.strip_prefix(place));
    let Some(file) = file.filter(|file| FILES.contains(file)) else {
        return ("404 Not Found", String::new(), Vec::new());
    };
    let bytes = std::fs::read(demo_folder().join(file)).unwrap();
    let (start, end) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    let headers = format!(
        "x-repo-commit: {COMMIT}\r\netag: \"{file}-etag\"\r\nContent-Range: bytes {start}-{}/{}\r\n",
        end - 1,
        bytes.len()
    );
    ("206 Partial Content", headers, bytes[start..end].to_vec())
}

#[test]
fn a_model_is_downloaded_once_with_progress() {
    let (endpoint, asked) = serve();
    let cache = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let folder = hub::fetch(REPO, &options(cache.path(), &endpoint, false), &heard).unwrap();
    for file in FILES {
        let (found, expected) = (folder.join(file), demo_folder().join(file));
        assert_eq!(std::fs::read(found).unwrap(), std::fs::read(&expected).unwrap(), "{file}");
        let bytes = std::fs::metadata(expected).unwrap().len();
        assert!(heard.0.lock().unwrap().contains(&(file.to_owned(), bytes, bytes)), "{file}");
    }
    let asked_before = asked.lock().unwrap().len();
    assert!(asked_before > FILES.len());
    assert_eq!(hub::fetch(REPO, &options(cache.path(), &endpoint, false), &()).unwrap(), folder);
    assert_eq!(hub::fetch(REPO, &options(cache.path(), &endpoint, true), &()).unwrap(), folder);
    assert_eq!(asked.lock().unwrap().len(), asked_before, "the second time came from the cache");
}

#[test]
fn a_model_the_hub_does_not_have_is_an_error() {
    let (endpoint, _) = serve();
    let cache = tempfile::tempdir().unwrap();
    let error = hub::fetch("sparkv-tests/none", &options(cache.path(), &endpoint, false), &()).unwrap_err();
    assert!(matches!(&error, LoadError::Hub { .. }) && error.to_string().contains("404"), "{error}");
}
