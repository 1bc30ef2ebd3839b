//! A server that runs unattended: keys, TLS, settings that change, logs, readiness.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::serve::Served;
use crate::support::*;

/// Files that live as long as this.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn status(server: &Served, key: &str) -> u16 {
    let request = Client::new().get(format!("{}/v1/models", server.url())).header("x-api-key", key);
    request.send().await.unwrap().status().as_u16()
}

/// Waits until a request with this key gets this status.
async fn until(server: &Served, key: &str, expected: u16) {
    let start = Instant::now();
    while status(server, key).await != expected {
        assert!(start.elapsed() < Duration::from_secs(60), "{key} never got {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until something is logged.
async fn until_logged(server: &Served, expected: &str) {
    let start = Instant::now();
    while !server.logged().contains(expected) {
        assert!(start.elapsed() < Duration::from_secs(60), "no {expected}: {}", server.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn preset(server: &Served, key: &str) -> Value {
    let body = json!({ "prompt": "The code", "max_tokens": 1 });
    let request = Client::new().post(format!("{}/v1/completions", server.url())).bearer_auth(key).json(&body);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["usage"]["kv_cache"]["preset"].clone()
}

#[tokio::test]
async fn keys_come_from_flags_variables_and_a_file() {
    let files = Files::new();
    let keys = files.write("keys", "# of the team\nof-file\n\n  spaced  \n");
    let server = Served::start(&["--api-key", "a", "--api-key", "b", "--api-key-file", text(&keys)]);
    for (key, expected) in
        [("a", 200), ("b", 200), ("of-file", 200), ("spaced", 200), ("#", 401), ("a,b", 401), ("", 401)]
    {
        assert_eq!(status(&server, key).await, expected, "{key:?}");
    }
    let mut command = sparkv();
    command.env("SPARKV_API_KEY", "c,d");
    let server = Served::start_with(command, &[]);
    assert_eq!((status(&server, "d").await, status(&server, "c,d").await), (200, 401));
}

#[test]
fn a_file_of_keys_that_cannot_be_used_is_refused() {
    let files = Files::new();
    for (content, expected) in [("# none\n", "holds no key"), ("fine\ns3cret word\n", "line 2")] {
        let keys = files.write("keys", content);
        for command in ["serve", "config"] {
            let arguments: &[&str] = if command == "config" { &["config", "check"] } else { &["serve"] };
            let message = fail(sparkv().args(arguments).args(["--port", "0", "--api-key-file", text(&keys)]));
            assert!(message.contains(expected) && message.contains("api_key_file"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
    let message = fail(sparkv().args(["serve", "--port", "0", "--api-key-file", "/no/such/keys"]));
    assert!(message.contains("/no/such/keys"), "{message}");
}

#[tokio::test]
async fn sighup_changes_keys_presets_and_the_default_without_dropping_a_request() {
    let files = Files::new();
    let with = |key: &str, kv: &str, port: u16| {
        format!("[server]\napi_key = \"{key}\"\nport = {port}\n[kv]\npreset = \"{kv}\"\n")
    };
    let config = files.write("sparkv.toml", &with("old", "quality", 1));
    let server = Served::start(&["--config", text(&config)]);
    assert_eq!(preset(&server, "old").await, "quality");
    let body = json!({ "prompt": "x", "max_tokens": 600, "ignore_eos": true, "stream": true });
    let request = Client::new().post(format!("{}/v1/completions", server.url())).bearer_auth("old");
    let running = request.json(&body).send().await.unwrap();

    files.write("sparkv.toml", &(with("new", "mine", 2) + "[presets]\nmine = { precision = \"int8\" }\n"));
    server.signal("-HUP");
    until(&server, "new", 200).await;
    assert_eq!(status(&server, "old").await, 401);
    assert_eq!(preset(&server, "new").await, "mine");
    assert!(running.text().await.unwrap().contains("\"finish_reason\":\"length\""));

    // What is broken changes nothing.
    files.write("sparkv.toml", "[server]\napi_key = \"s3cret");
    server.signal("-HUP");
    until_logged(&server, "is not valid: line 2").await;
    assert_eq!(preset(&server, "new").await, "mine");
    // Nor does a file that would open the server to all.
    files.write("sparkv.toml", "");
    server.signal("-HUP");
    until_logged(&server, "no API key is left").await;
    assert_eq!((status(&server, "new").await, status(&server, "none").await), (200, 401));

    let (end, log) = server.terminate();
    assert!(end.success(), "{log}");
    assert!(log.contains("read the settings again"), "{log}");
    // The port was given by a flag, which the file does not change.
    assert!(!log.contains("server.port"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
async fn a_changed_file_is_read_by_itself_and_what_needs_a_restart_is_named() {
    let files = Files::new();
    let keys = files.write("keys", "old\n");
    let settings = |extra: &str| format!("[server]\napi_key_file = \"{}\"\n{extra}", text(&keys));
    let config = files.write("sparkv.toml", &settings(""));
    let server = Served::start(&["--config", text(&config)]);
    assert_eq!(status(&server, "old").await, 200);
    files.write("keys", "new\n");
    until(&server, "new", 200).await;
    assert_eq!(status(&server, "old").await, 401);
    files.write(
        "sparkv.toml",
        &settings("max_queue = 3\n[kv]\npreset = \"balanced\"\n[model]\nsource = \"x\"\n"),
    );
    let start = Instant::now();
    while preset(&server, "new").await != "balanced" {
        assert!(start.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, log) = server.terminate();
    assert!(log.contains("model.source, server.max_queue"), "{log}");
}

#[tokio::test]
async fn neither_keys_nor_prompts_are_logged_at_any_level() {
    for format in ["text", "json"] {
        let mut command = sparkv();
        command.env("RUST_LOG", "trace");
        let server = Served::start_with(command, &["--api-key", "s3cret-key", "--log-format", format]);
        let send = async |path: &str, key: &str, body: String| {
            let request = Client::new().post(format!("{}{path}", server.url())).bearer_auth(key);
            let request = request.header("content-type", "application/json").header("x-request-id", "my-id");
            let reply = request.body(body).send().await.unwrap();
            (reply.status().as_u16(), reply.text().await.unwrap())
        };
        let chat = |stream: bool, temperature: Value| {
            json!({
                "messages": [{ "role": "user", "content": "zanzibar zanzibar" }],
                "max_tokens": 3, "stream": stream, "temperature": temperature, "stop": ["zanzibar"],
            })
            .to_string()
        };
        let path = "/v1/chat/completions";
        assert_eq!(send(path, "s3cret-key", chat(false, json!(0))).await.0, 200);
        assert_eq!(send(path, "s3cret-key", chat(true, json!(0))).await.0, 200);
        assert_eq!(send(path, "s3cret-key", chat(true, json!("zanzibar"))).await.0, 400);
        assert_eq!(send(path, "s3cret-key", "{\"zanzibar\": 1, ".to_owned()).await.0, 400);
        assert_eq!(send(path, "wrong-s3cret", chat(false, json!(0))).await.0, 401);
        assert_eq!(
            send(
                "/v1/completions?key=s3cret",
                "s3cret-key",
                json!({ "prompt": "zanzibar", "max_tokens": 2 }).to_string()
            )
            .await
            .0,
            200
        );
        let (end, log) = server.terminate();
        assert!(end.success(), "{log}");
        assert!(log.contains("my-id") && log.contains("answered") && log.contains("TRACE"), "{log}");
        for secret in ["s3cret", "zanzibar"] {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{format}");
        }
    }
}

#[tokio::test]
async fn the_log_can_be_json() {
    let server = Served::start(&["--log-format", "json"]);
    server.answer("/v1/completions", &json!({ "prompt": "x", "max_tokens": 2, "ignore_eos": true })).await;
    let (_, log) = server.terminate();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.iter().find(|line| line["message"] == "answered").unwrap();
    assert_eq!((&end["status"], &end["completion_tokens"]), (&json!(200), &json!(2)));
    assert_eq!((&end["finish_reason"], &end["kv_preset"]), (&json!("length"), &json!("exact")));
    assert_eq!(end["span"]["path"], "/v1/completions");
    assert_eq!(end["span"]["id"].as_str().unwrap().len(), 36, "{end}");
    // Nobody watches a bar: how far loading is, is in the log.
    assert!(lines.iter().any(|line| line["message"] == "loaded"), "{log}");
}

/// A balancer's view of SIGTERM: not ready at once, requests taken for a while, then an end in good order.
#[tokio::test]
async fn sigterm_leaves_time_to_send_requests_elsewhere() {
    let server = Served::start(&["--drain-delay-seconds", "3", "--health-follows-ready"]);
    let get =
        async |path: &str| reqwest::get(format!("{}{path}", server.url())).await.unwrap().status().as_u16();
    assert_eq!((get("/health").await, get("/ping").await), (200, 200));
    let told = Instant::now();
    server.signal("-TERM");
    while get("/ready").await == 200 {
        assert!(told.elapsed() < Duration::from_secs(2), "not ready at once");
    }
    assert_eq!((get("/health").await, get("/ping").await), (503, 503));
    server.answer("/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await;
    let (end, log) = server.wait();
    assert!(end.success(), "{log}");
    assert!(told.elapsed() >= Duration::from_secs(3), "{log}");
    assert!(log.contains("not ready any more") && log.contains("draining"), "{log}");
}

#[tokio::test]
async fn a_second_sigterm_ends_the_delay() {
    let server = Served::start(&["--drain-delay-seconds", "600"]);
    server.signal("-TERM");
    until_logged(&server, "not ready any more").await;
    let (end, log) = server.terminate();
    assert_eq!(end.code(), Some(1), "{log}");
    assert!(log.contains("told to stop twice"), "{log}");
}

#[tokio::test]
async fn names_metrics_and_an_address_in_brackets() {
    let flags =
        ["--served-model-name", "first,second", "--api-key", "k", "--metrics-open", "--host", "[::1]"];
    let server = Served::start(&flags);
    assert!(server.url().starts_with("http://[::1]:"), "{}", server.url());
    assert!(server.greeting().contains("serves first at"), "{}", server.greeting());
    let get = async |path: &str, key: &str| {
        let request = Client::new().get(format!("{}{path}", server.url())).bearer_auth(key);
        request.send().await.unwrap()
    };
    let models: Value = get("/v1/models", "k").await.json().await.unwrap();
    assert_eq!([&models["data"][0]["id"], &models["data"][1]["id"]], ["first", "second"]);
    assert_eq!(models["data"][0]["root"], "demo");
    let metrics = get("/metrics", "none").await;
    assert_eq!(metrics.status(), 200);
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("process_open_fds ") && metrics.contains("model_name=\"first\""), "{metrics}");
    assert_eq!(get("/props", "none").await.status(), 401);
    let named = async |name: &str| {
        let body = json!({ "prompt": "x", "max_tokens": 1, "model": name });
        let request = Client::new().post(format!("{}/v1/completions", server.url())).bearer_auth("k");
        request.json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!([named("second").await, named("demo").await, named("sparkv-demo").await], [200, 404, 404]);
}

#[tokio::test]
async fn serves_over_tls() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Files::new();
    let certificate = files.write("cert.pem", &cert.pem());
    let key = files.write("key.pem", &signing_key.serialize_pem());
    let server = Served::start(&["--tls-cert", text(&certificate), "--tls-key", text(&key)]);
    let address = server.url().strip_prefix("https://").unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, socket).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

/// The certificate that a server shows.
async fn certificate(address: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Takes any certificate: which it is, is what is asked.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_whatever_is_wrong_with_keys_and_settings() {
    let files = Files::new();
    let renew = || {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let paths =
            (files.write("cert.pem", &cert.pem()), files.write("key.pem", &signing_key.serialize_pem()));
        (paths, cert.der().to_vec())
    };
    let ((cert, key), first) = renew();
    let keys = files.write("keys", "a-key\n");
    let config = files.write("sparkv.toml", "");
    let flags = ["--tls-cert", text(&cert), "--tls-key", text(&key), "--api-key-file", text(&keys)];
    let server = Served::start(&[&flags[..], &["--config", text(&config)]].concat());
    let address = server.url().strip_prefix("https://").unwrap();
    assert_eq!(certificate(address).await, first);
    for (name, broken, told) in
        [("keys", "", "holds no key"), ("keys", "two words", "line 1"), ("sparkv.toml", "[", "is not valid")]
    {
        files.write(name, broken);
        let (_, renewed) = renew();
        server.signal("-HUP");
        until_logged(&server, told).await;
        let start = Instant::now();
        while certificate(address).await != renewed {
            assert!(start.elapsed() < Duration::from_secs(60), "{name}: {}", server.logged());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // A broken certificate is told as what it is, and does not keep the settings from being read.
    files.write("keys", "a-key\n");
    files.write("sparkv.toml", "");
    let last = certificate(address).await;
    files.write("cert.pem", "junk");
    let before = server.logged().matches("read the settings again").count();
    server.signal("-HUP");
    until_logged(&server, "the certificate was not changed").await;
    let start = Instant::now();
    while server.logged().matches("read the settings again").count() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", server.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(certificate(address).await, last);
}

#[test]
fn files_for_tls_are_checked_before_the_model_is_loaded() {
    let pair = || generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Files::new();
    let certificate = files.write("cert.pem", &pair().cert.pem());
    let other = files.write("key.pem", &pair().signing_key.serialize_pem());
    let junk = files.write("junk.pem", "junk");
    for (certificate, key, expected) in [
        (&certificate, &other, "does not belong to the certificate"),
        (&junk, &other, "junk.pem holds no certificate"),
        (&certificate, &junk, "junk.pem holds no private key"),
    ] {
        // The model is not there; that would be said, had it been looked for.
        let flags = ["--tls-cert", text(certificate), "--tls-key", text(key), "--model", "no-org/no-model"];
        let message = fail(sparkv().args(["serve", "--offline", "--port", "0"]).args(flags));
        assert!(message.contains(expected), "{message}");
    }
    let message = fail(sparkv().args(["serve", "--tls-cert", text(&certificate)]));
    assert!(message.contains("tls_key is missing"), "{message}");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_that_listens_already() {
    let folder = Files::new();
    folder.write("config.json", "{");
    let output = sparkv().args(["serve", "--port", "0", "--model", text(folder.0.path())]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.lines().last().unwrap().starts_with("error: "), "{message}");
    assert!(output.stdout.is_empty());
}

/// A model whose weights are a pipe: loading it waits until the test ends.
#[cfg(unix)]
#[tokio::test]
async fn it_listens_while_the_model_is_loaded_and_can_be_stopped() {
    let folder = Files::new();
    for entry in std::fs::read_dir(repository("models/demo")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "config.json" {
            std::fs::copy(entry.path(), folder.0.path().join(entry.file_name())).unwrap();
        }
    }
    let pipe = folder.0.path().join("config.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // A port that is free, as far as one can know.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = sparkv();
    command.args(["serve", "--port", &port.to_string(), "--model", text(folder.0.path())]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let get = async |path: &str| reqwest::get(format!("http://127.0.0.1:{port}{path}")).await;
    let start = Instant::now();
    while get("/health").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get("/health").await.unwrap().status(), 200);
    let reply = get("/ready").await.unwrap();
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["code"], "loading");
    let id = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(process.wait().unwrap().success());
    let mut greeting = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
    assert_eq!(greeting, "");
}
