//! The page at `/`.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use reqwest::Client;
use sparkv_server::{Connections, HttpServer, Server};

use crate::support::*;

/// A server that wants a key, which the page does not.
fn routes() -> Router {
    Setup { api_keys: &["secret"], ..Setup::default() }.routes()
}

/// The values of an attribute, or what follows `import .. from`, in a file.
fn quoted_after<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).map(|rest| rest.split('"').next().unwrap())
}

/// The page and every file that it names, or that those name, with their media types.
async fn files(routes: &Router) -> Vec<(String, Reply)> {
    let mut paths = vec!["/".to_owned()];
    let mut files = Vec::new();
    while let Some(path) = paths.pop() {
        if files.iter().any(|(seen, _)| *seen == path) {
            continue;
        }
        let reply = get(routes, &path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        let of_page = quoted_after(&reply.text, "href=\"").chain(quoted_after(&reply.text, "src=\""));
        paths.extend(of_page.filter(|link| !link.starts_with('#')).map(|link| format!("/{link}")));
        paths.extend(quoted_after(&reply.text, "from \"./").map(|name| format!("/web/{name}")));
        files.push((path, reply));
    }
    files
}

#[tokio::test]
async fn the_page_and_its_files_are_served_without_a_key_and_may_do_nothing_else() {
    let routes = routes();
    let files = files(&routes).await;
    assert!(files.len() > 10, "the page names its files, not {}", files.len());
    for (path, reply) in files {
        let media_type = match path.rsplit('.').next().unwrap() {
            "/" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(reply.header("content-type"), Some(media_type), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        for part in ["script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.split("; ").any(|given| given == part), "{part}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    }
    assert_eq!(get(&routes, "/web/other.js").await.status, StatusCode::UNAUTHORIZED, "no such file");
    assert_eq!(get(&routes, "/v1/models").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_page_has_nothing_that_its_policy_forbids() {
    for (path, reply) in files(&routes()).await {
        let text = &reply.text;
        for markup in ["style=\"", " onclick=\"", "javascript:", "<style", "//cdn", "https://"] {
            assert!(path.ends_with(".js") || !text.contains(markup), "{path}: {markup}");
        }
        for call in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!text.contains(call), "{path}: {call}");
        }
        assert_eq!(
            text.matches("<script").count(),
            text.matches("<script type=\"module\" src=").count(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_page_can_be_asked_for_its_head_and_takes_nothing() {
    let routes = routes();
    let ask = |method: Method| Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
    let (head, whole) = (send(&routes, ask(Method::HEAD)).await, get(&routes, "/").await);
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(head.header("content-type"), whole.header("content-type"));
    assert_eq!(head.header("content-length"), Some(whole.text.len().to_string().as_str()));
    let reply = send(&routes, ask(Method::POST)).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.json()["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn the_page_is_there_while_the_model_is_loaded() {
    let listener = Server::bind("127.0.0.1", 0).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _listening = HttpServer::start(listener, Connections::default());
    for (path, status) in [("/", 200), ("/web/main.js", 200), ("/v1/models", 503)] {
        let reply = Client::new().get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{path}");
    }
}
