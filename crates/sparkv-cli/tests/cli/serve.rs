//! `sparkv serve` on the embedded model, over HTTP.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::support::*;

/// A server that ends with the test.
pub(crate) struct Served {
    process: Child,
    /// What it has logged: read all the while, so that it never waits for a reader.
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
    /// What it prints when it is ready.
    greeting: String,
    url: String,
}

impl Served {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(sparkv(), arguments)
    }

    /// Starts with what `command` has set.
    pub(crate) fn start_with(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["serve", "--port", "0", "--offline"]).args(arguments);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = process.stderr.take().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let lines = Arc::clone(&log);
        let reading = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let mut log = lines.lock().unwrap();
                log.push_str(&line.unwrap());
                log.push('\n');
            }
        });
        let mut greeting = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut greeting).unwrap();
        let url = greeting.split_whitespace().find(|word| word.starts_with("http")).map(str::to_owned);
        let Some(url) = url else {
            reading.join().unwrap();
            panic!("not ready: {greeting} {}", log.lock().unwrap());
        };
        Self { process, log, reading: Some(reading), greeting, url }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Resident memory of the process.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        Client::new().post(format!("{}{path}", self.url)).json(body).send().await.unwrap()
    }

    pub(crate) async fn answer(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status(), 200);
        reply.json().await.unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// What it printed when it was ready.
    pub(crate) fn greeting(&self) -> &str {
        &self.greeting
    }

    /// The end of the process and what it logged, after SIGTERM.
    pub(crate) fn terminate(self) -> (ExitStatus, String) {
        self.signal("-TERM");
        self.wait()
    }

    /// The same, after whatever ends it.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        self.reading.take().unwrap().join().unwrap();
        (self.process.wait().unwrap(), self.logged())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn chat(stream: bool) -> Value {
    let question = "The code of Anna is 42. What is the code of Anna?";
    json!({
        "model": "demo", "messages": [{ "role": "user", "content": question }],
        "temperature": 0, "max_tokens": 12, "stream": stream,
    })
}

#[tokio::test]
async fn chats_streamed_and_not_and_ends_on_sigterm() {
    let server = Served::start(&[]);
    assert!(server.url.starts_with("http://127.0.0.1:"), "{}", server.greeting);
    assert_eq!(server.greeting.lines().count(), 1);
    for path in ["/health", "/ready", "/v1/models"] {
        let reply = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
        assert_eq!(reply.status(), 200, "{path}");
    }
    let whole = server.answer("/v1/chat/completions", &chat(false)).await;
    let text = whole.pointer("/choices/0/message/content").unwrap().as_str().unwrap();
    assert!(!text.is_empty());
    let transcript = server.post("/v1/chat/completions", &chat(true)).await.text().await.unwrap();
    let streamed: String = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .map(|rest| serde_json::from_str::<Value>(&format!("{{{rest}")).unwrap())
        .filter_map(|chunk| Some(chunk.pointer("/choices/0/delta/content")?.as_str()?.to_owned()))
        .collect();
    assert_eq!(streamed, text);
    assert!(transcript.ends_with("data: [DONE]\n\n"));

    let (status, log) = server.terminate();
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("Anna"), "prompts are not logged: {log}");
    assert!(log.contains("/v1/chat/completions"), "requests are: {log}");
}

#[tokio::test]
async fn the_cache_costs_what_the_request_says_else_what_the_server_says() {
    let server = Served::start(&["--kv", "quality", "--api-key", "s3cret"]);
    let refused = server.post("/v1/chat/completions", &chat(false)).await;
    assert_eq!(refused.status(), 401);
    let ask = async |kv_cache: Value| {
        let mut body = chat(false);
        body["kv_cache"] = kv_cache;
        let request = Client::new().post(format!("{}/v1/chat/completions", server.url)).bearer_auth("s3cret");
        let answer: Value = request.json(&body).send().await.unwrap().json().await.unwrap();
        answer["usage"]["kv_cache"].clone()
    };
    assert_eq!(ask(Value::Null).await["preset"], "quality");
    assert_eq!(ask(json!({ "preset": "exact" })).await["preset"], "exact");
    assert_eq!(ask(json!({ "pruning": { "key_ratio": 0.5 } })).await["preset"], "custom");
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let message = fail(sparkv().args(["serve", "--port", &address.port().to_string()]));
    assert!(message.contains(&address.to_string()) && message.contains("in use"), "{message}");
}

#[test]
fn an_unknown_host_is_a_clear_error() {
    let message = fail(sparkv().args(["serve", "--port", "0", "--host", "no.such.host.invalid"]));
    assert!(message.contains("no.such.host.invalid"), "{message}");
}
