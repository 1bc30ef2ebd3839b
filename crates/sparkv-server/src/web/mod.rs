//! The page at `/`: a chat for browsers, from the binary alone. It is open, since it holds no secrets; what it asks of the
//! API needs the key, as from anybody else.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Nothing but the files below, and nothing from elsewhere. Where browsers know trusted types, no text can become markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Path, media type and content of each file.
const FILES: [(&str, &str, &str); 15] = [
    ("/", HTML, include_str!("index.html")),
    ("/web/style.css", CSS, include_str!("style.css")),
    ("/web/conversation.css", CSS, include_str!("conversation.css")),
    ("/web/layout.css", CSS, include_str!("layout.css")),
    ("/web/icon.svg", SVG, include_str!("icon.svg")),
    ("/web/main.js", JAVASCRIPT, include_str!("main.js")),
    ("/web/answer.js", JAVASCRIPT, include_str!("answer.js")),
    ("/web/api.js", JAVASCRIPT, include_str!("api.js")),
    ("/web/dom.js", JAVASCRIPT, include_str!("dom.js")),
    ("/web/examples.js", JAVASCRIPT, include_str!("examples.js")),
    ("/web/kv.js", JAVASCRIPT, include_str!("kv.js")),
    ("/web/lane.js", JAVASCRIPT, include_str!("lane.js")),
    ("/web/markdown.js", JAVASCRIPT, include_str!("markdown.js")),
    ("/web/status.js", JAVASCRIPT, include_str!("status.js")),
    ("/web/tools.js", JAVASCRIPT, include_str!("tools.js")),
];

/// A route for each file.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |routes, (path, media_type, content)| {
        routes.route(path, get(move || async move { file(media_type, content) }))
    })
}

fn file(media_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the server has other files.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
