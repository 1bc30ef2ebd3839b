//! /openapi.json: the routes as OpenAPI 3.1 describes them, made from the handlers and their types.

use axum::Json;
use axum::extract::State;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use crate::app::App;
use crate::chat::ChatChunk;
use crate::error::ErrorBody;
use crate::models;

/// Name of the security scheme.
const KEY: &str = "api_key";

/// What routes cannot say themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sparkv",
        description = "An OpenAI-compatible inference server in which each request sets what its KV cache may cost.",
        license(name = "MIT OR Apache-2.0")
    ),
    // Registered by another name: names of models have slashes.
    paths(models::get),
    // Chunks are within the events of streams.
    components(schemas(ErrorBody, ChatChunk))
)]
pub(crate) struct Described;

/// The description of all routes.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "This document", body = Object)))]
pub(crate) async fn document(State(app): State<App>) -> Json<Document> {
    Json(app.document().clone())
}

/// Adds to each operation the errors that it may end with, and the key it needs.
pub(crate) fn complete(mut document: Document) -> Document {
    for (path, item) in &mut document.paths.paths {
        let is_open = matches!(path.as_str(), "/health" | "/ready" | "/ping" | "/version");
        for operation in operations(item) {
            for (status, description) in errors(path, operation.request_body.is_some(), is_open) {
                operation.responses.responses.insert(status.to_owned(), RefOr::T(error(description)));
            }
            if !is_open {
                operation.security = Some(vec![SecurityRequirement::new(KEY, [] as [&str; 0])]);
            }
        }
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(bearer));
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().filter_map(Option::as_mut)
}

/// The errors of an operation.
fn errors(path: &str, has_body: bool, is_open: bool) -> Vec<(&'static str, &'static str)> {
    let mut errors = vec![
        ("500", "The server failed"),
        ("503", "The model is being loaded or the server is shutting down, or too many connections are open"),
    ];
    if !is_open {
        errors.push(("401", "No API key, or a wrong one"));
    }
    if has_body {
        errors.extend([
            ("400", "A field cannot be honoured; `param` names it"),
            ("404", "Another model is served"),
            ("408", "The body did not arrive in time"),
            ("413", "The body is too large"),
            ("415", "The body is not JSON"),
            ("429", "Too many requests wait; `Retry-After` says when to try again"),
        ]);
    }
    if path.starts_with("/v1/models/") {
        errors.push(("404", "There is no such model"));
    }
    if has_body && path.starts_with("/v1/") {
        errors.push(("504", "The request took longer than the server allows"));
    }
    errors
}

fn error(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build()
}
