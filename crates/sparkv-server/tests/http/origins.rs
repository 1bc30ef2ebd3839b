//! CORS: what browsers ask before they let a page call.

use reqwest::{Client, Method, Response};
use serde_json::json;
use sparkv_server::{Connections, CorsOrigins, HttpServer, Server};

use crate::socket::Running;
use crate::support::*;

const PAGE: &str = "https://page.example";

async fn start(origins: &[&str]) -> Running {
    let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
    let connections = Connections { cors: CorsOrigins::new(&origins).unwrap(), ..Connections::default() };
    Running::start_at(Setup { api_keys: &["secret"], ..Setup::default() }, connections).await
}

/// What a browser asks, without a key, before it sends one along.
async fn preflight(url: &str, origin: &str) -> Response {
    Client::new()
        .request(Method::OPTIONS, url)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .send()
        .await
        .unwrap()
}

fn allowed(reply: &Response) -> Option<&str> {
    reply.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn no_page_may_call_unless_the_operator_says_so() {
    let server = start(&[]).await;
    let reply = preflight(&server.url("/v1/chat/completions"), PAGE).await;
    assert_eq!((reply.status().as_u16(), allowed(&reply)), (401, None));
}

#[tokio::test]
async fn pages_of_the_origins_named_may_call_and_read_errors_too() {
    let server = start(&[PAGE, "http://localhost:3000"]).await;
    let url = server.url("/v1/chat/completions");
    for origin in [PAGE, "http://localhost:3000"] {
        let reply = preflight(&url, origin).await;
        assert_eq!((reply.status().as_u16(), allowed(&reply)), (200, Some(origin)));
        assert_eq!(reply.headers()["access-control-allow-headers"], "authorization,content-type");
        let methods = reply.headers()["access-control-allow-methods"].to_str().unwrap();
        assert!(methods.contains("POST"), "{methods}");
    }
    assert_eq!(allowed(&preflight(&url, "https://other.example").await), None);
    for (key, status) in [("secret", 200), ("wrong", 401)] {
        let request = Client::new().post(&url).bearer_auth(key).header("origin", PAGE);
        let reply = request.json(&chat_body(json!({}))).send().await.unwrap();
        assert_eq!((reply.status().as_u16(), allowed(&reply)), (status, Some(PAGE)));
        let exposed = reply.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("x-request-id"), "{exposed}");
    }
}

#[tokio::test]
async fn a_star_lets_every_page_call_also_while_the_model_is_loaded() {
    let server = start(&["*"]).await;
    let reply = preflight(&server.url("/v1/models"), PAGE).await;
    assert_eq!((reply.status().as_u16(), allowed(&reply)), (200, Some("*")));
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let url = format!("http://{}/ready", listener.local_addr().unwrap());
    let cors = CorsOrigins::new(&["*".to_owned()]).unwrap();
    let _listening = HttpServer::start(listener, Connections { cors, ..Connections::default() });
    let reply = Client::new().get(url).header("origin", PAGE).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), allowed(&reply)), (503, Some("*")));
}
