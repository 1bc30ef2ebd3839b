//! Routes of other servers that ask for what this one does not do. They say so, where an unknown route would leave clients
//! to guess.

use axum::routing::any;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::error::ApiError;

/// Make vectors of texts.
const EMBEDDING: [&str; 3] = ["/v1/embeddings", "/api/embed", "/api/embeddings"];

/// Manage models, which the operator does here.
const MANAGING: [&str; 6] =
    ["/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/{digest}"];

/// All of them.
pub(crate) fn routes() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new();
    let routes = EMBEDDING.into_iter().fold(routes, |routes, path| routes.route(path, any(embed)));
    MANAGING.into_iter().fold(routes, |routes, path| routes.route(path, any(manage)))
}

async fn embed() -> ApiError {
    ApiError::NotOffered("this server generates text and makes no embeddings")
}

async fn manage() -> ApiError {
    ApiError::NotOffered(
        "this server has the model that it was started with: none is pulled, made or deleted",
    )
}
