//! /v1/models: the one model that is served.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::ApiError;

/// What stands before a model's name.
const ROUTE: &str = "/v1/models/";

/// A model, as the API lists it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelBody {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Where the model is (vLLM's name for it).
    root: String,
    /// Tokens of prompt and completion together (vLLM's name for it).
    max_model_len: usize,
}

/// A list of models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelBody>,
}

/// Lists the model, under each of the names that the operator gave it.
#[utoipa::path(
    get,
    path = "/v1/models",
    responses((status = 200, description = "The models that are served", body = ModelList))
)]
pub(crate) async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: app.listed_names().map(|name| describe(&app, name)).collect() })
}

/// Describes the model, under its name or another name of it.
#[utoipa::path(
    get,
    path = "/v1/models/{name}",
    params(("name" = String, Path, description = "Name of a model, slashes and all")),
    responses((status = 200, description = "The model", body = ModelBody))
)]
pub(crate) async fn get(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<ModelBody>, ApiError> {
    // A name that is not UTF-8 once decoded is no model's name; it is quoted as it came.
    let name = name.map_or_else(|_| uri.path().trim_start_matches(ROUTE).to_owned(), |Path(name)| name);
    app.check_model(Some(&name))?;
    let listed = app.listed_names().find(|listed| *listed == name);
    Ok(Json(describe(&app, listed.unwrap_or(app.model_name()))))
}

fn describe(app: &App, name: &str) -> ModelBody {
    ModelBody {
        id: name.to_owned(),
        object: "model",
        created: app.started(),
        owned_by: "sparkv",
        root: app.config().model_path.clone(),
        max_model_len: app.context_length(),
    }
}
