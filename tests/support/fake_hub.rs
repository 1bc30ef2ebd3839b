//! A small server in place of the hub, for the tests of any crate.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The model that it has.
pub(crate) const REPO: &str = "sparkv-tests/tiny";

/// What goes wrong with a request.
pub(crate) enum Failure {
    /// It is answered with this status.
    Status(u16),
    /// Of a file's download: the connection breaks after so many bytes.
    Cut(usize),
}

type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct State {
    /// Commits by branch, tag, or their own name.
    revisions: BTreeMap<String, String>,
    commits: BTreeMap<String, Files>,
    failures: VecDeque<Failure>,
    /// Paths that were asked for, and from which byte on.
    asked: Vec<(String, Option<usize>)>,
}

/// Answers as the hub does for [`REPO`], until the test's process ends.
#[derive(Clone)]
pub(crate) struct FakeHub {
    /// Its address.
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { endpoint, state: Arc::default() };
        let answering = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answering.answer(stream.unwrap());
            }
        });
        hub
    }

    /// Lets a revision be this commit with these files.
    pub(crate) fn commit(&self, revision: &str, commit: &str, files: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap();
        for name in [revision, commit] {
            state.revisions.insert(name.to_owned(), commit.to_owned());
        }
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        state.commits.insert(commit.to_owned(), files);
    }

    /// Lets the next requests fail, one after the other.
    pub(crate) fn fail(&self, failures: impl IntoIterator<Item = Failure>) {
        self.state.lock().unwrap().failures.extend(failures);
    }

    /// The paths that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.iter().map(|(path, _)| path.clone()).collect()
    }

    /// The bytes from which on a file was downloaded, in order.
    pub(crate) fn starts(&self, file: &str) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        let of_file = state.asked.iter().filter(|(path, _)| path.ends_with(&format!("/{file}")));
        of_file.filter_map(|(_, start)| *start).collect()
    }

    fn answer(&self, mut stream: TcpStream) {
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
        let range = lines
            .iter()
            .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let (start, end) = range.as_deref().and_then(|range| range.split_once('-')).unwrap_or(("0", "0"));
        let start: usize = start.parse().unwrap();
        let download = end.is_empty().then_some(start);
        let mut state = self.state.lock().unwrap();
        state.asked.push((path.to_owned(), download));
        let (status, headers, body) = state.respond(path, start, end.parse().ok());
        let mut sent = body.len();
        let status = match state.failures.front() {
            Some(Failure::Status(status)) => format!("{status} Failure"),
            Some(Failure::Cut(bytes)) if download.is_some() => {
                sent = sent.min(*bytes);
                status.to_owned()
            }
            _ => {
                drop(state);
                return send(&mut stream, status, &headers, &body, sent);
            }
        };
        state.failures.pop_front();
        drop(state);
        send(&mut stream, &status, &headers, &body, sent);
    }
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8], sent: usize) {
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..sent]);
}

impl State {
    fn respond(&self, path: &str, start: usize, end: Option<usize>) -> (&'static str, String, Vec<u8>) {
        let not_found = ("404 Not Found", String::new(), Vec::new());
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
            let Some(commit) = self.revisions.get(&revision.replace("%2F", "/")) else { return not_found };
            let files = self.commits[commit].keys();
            let siblings: Vec<_> = files.map(|file| serde_json::json!({"rfilename": file})).collect();
            let info = serde_json::json!({"sha": commit, "siblings": siblings});
            return ("200 OK", "Content-Type: application/json\r\n".to_owned(), info.to_string().into());
        }
        let place = path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|place| place.split_once('/'));
        let found = place.and_then(|(revision, file)| {
            let commit = self.revisions.get(&revision.replace("%2F", "/"))?;
            Some((commit, self.commits[commit].get(file)?))
        });
        let Some((commit, bytes)) = found else { return not_found };
        if start >= bytes.len() {
            return ("416 Range Not Satisfiable", String::new(), Vec::new());
        }
        let end = end.map_or(bytes.len(), |end| end + 1);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let headers = format!(
            "x-repo-commit: {commit}\r\netag: \"{:016x}\"\r\nContent-Range: bytes {start}-{}/{}\r\n",
            hasher.finish(),
            end - 1,
            bytes.len()
        );
        ("206 Partial Content", headers, bytes[start..end].to_vec())
    }
}
