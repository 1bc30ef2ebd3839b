//! TLS, with certificates made here and a client that checks them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use sparkv_server::{Connections, Drained, Tls, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::socket::Running;
use crate::support::*;

/// A certificate for localhost, as files.
struct Files {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = Self { folder: tempfile::tempdir().unwrap(), certificate: cert.der().clone() };
        files.write("cert.pem", &cert.pem());
        files.write("key.pem", &signing_key.serialize_pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn tls(&self) -> Tls {
        Tls::read(&self.path("cert.pem"), &self.path("key.pem")).unwrap()
    }

    async fn connect(&self, server: &Running) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_for(server, &[]).await
    }

    /// A connection for one of these protocols.
    async fn connect_for(
        &self,
        server: &Running,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(server.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }
}

fn message(certificate: &Path, key: &Path) -> String {
    Tls::read(certificate, key).unwrap_err().to_string()
}

#[tokio::test]
async fn answers_over_tls_and_drains() {
    let files = Files::new();
    let connections = Connections { tls: Some(files.tls()), ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    let mut stream = files.connect(&server).await.unwrap();
    server.probe.gate().close();
    let body = completion_body(json!({ "stream": true, "ignore_eos": true })).to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut text = vec![0; 4096];
    let length = stream.read(&mut text).await.unwrap();
    let beginning = String::from_utf8_lossy(&text[..length]).into_owned();
    assert!(beginning.starts_with("HTTP/1.1 200"), "{beginning}");
    // It ends after the answer, although the client would keep the connection; one in its handshake is not
    // waited for.
    let _half_open = TcpStream::connect(server.address).await.unwrap();
    server.stop.send(()).unwrap();
    server.probe.gate().open();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("data: [DONE]\n\n"), "{rest}");
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
}

#[tokio::test]
async fn http_2_is_spoken_with_who_asks_for_it() {
    let files = Files::new();
    let connections = Connections { tls: Some(files.tls()), ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    let chosen = async |protocols: &[&str]| {
        let stream = files.connect_for(&server, protocols).await.unwrap();
        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap())
    };
    assert_eq!(chosen(&["http/1.1", "h2"]).await.as_deref(), Some("h2"));
    assert_eq!(chosen(&["http/1.1"]).await.as_deref(), Some("http/1.1"));
    assert_eq!(chosen(&[]).await, None);
    let stream = files.connect_for(&server, &["h2"]).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    let request = axum::http::Request::get("https://localhost/ready").body(()).unwrap();
    let (response, _) = requests.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    server.stop.send(()).unwrap();
    assert_eq!(server.ended.await.unwrap().unwrap(), Drained::Complete);
    assert!(ended.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_certificate_is_replaced_while_it_runs() {
    let (old, new) = (Files::new(), Files::new());
    let tls = old.tls();
    let connections = Connections { tls: Some(tls.clone()), ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    assert!(old.connect(&server).await.is_ok() && new.connect(&server).await.is_err());
    // Half of a change: as long as it does not fit together, the old one holds.
    assert!(tls.reread(&new.path("cert.pem"), &old.path("key.pem")).is_err());
    assert!(old.connect(&server).await.is_ok());
    tls.reread(&new.path("cert.pem"), &new.path("key.pem")).unwrap();
    assert!(old.connect(&server).await.is_err() && new.connect(&server).await.is_ok());
}

#[tokio::test]
async fn who_does_not_speak_tls_is_let_go_and_harms_nobody() {
    let files = Files::new();
    let tls = Some(files.tls());
    let head_timeout = Duration::from_millis(200);
    let connections = Connections { tls, head_timeout, max: 1, ..Connections::default() };
    let server = Running::start_at(Setup::default(), connections).await;
    for sent in ["", "GET /health HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        // Ends, by a close or a reset; were it not, the one slot would be taken for ever.
        let _ = stream.read_to_end(&mut text).await;
        assert!(!String::from_utf8_lossy(&text).contains("HTTP/1.1"), "nothing is said in the clear");
    }
    assert!(Files::new().connect(&server).await.is_err(), "a certificate that the client does not trust");
    assert!(files.connect(&server).await.is_ok());
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let (files, others) = (Files::new(), Files::new());
    let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
    let missing = message(&files.path("none.pem"), &key);
    assert!(missing.starts_with("cannot read ") && missing.contains("none.pem"), "{missing}");
    let missing = message(&certificate, &files.path("none.pem"));
    assert!(missing.starts_with("cannot read ") && missing.contains("none.pem"), "{missing}");
    let junk = files.write("junk.pem", "s3cret, not PEM");
    let text = message(&junk, &key);
    assert!(text.contains("junk.pem holds no certificate in PEM format"), "{text}");
    let text = message(&certificate, &junk);
    assert!(text.contains("junk.pem holds no private key") && !text.contains("s3cret"), "{text}");
    let swapped = message(&key, &certificate);
    assert!(swapped.contains("key.pem holds no certificate"), "{swapped}");
    let cut = std::fs::read_to_string(&certificate).unwrap();
    let cut = files.write("cut.pem", &cut[..cut.len() / 2]);
    let text = message(&cut, &key);
    assert!(text.contains("cut.pem"), "{text}");
    let error = Tls::read(&certificate, &others.path("key.pem")).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("does not belong to the certificate"), "{error}");
    let not_der =
        files.write("not_der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(matches!(Tls::read(&not_der, &key), Err(TlsError::Refused { .. })));
    assert!(!format!("{:?}", files.tls()).contains("PRIVATE"));
}
