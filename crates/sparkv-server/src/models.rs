//! /v1/models: the one model that is served.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::app::App;
use crate::error::ApiError;

/// A model, as the API lists it.
#[derive(Debug, Serialize)]
pub(crate) struct ModelBody {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens of prompt and completion together (vLLM's name for it).
    max_model_len: usize,
}

/// A list of models.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: [ModelBody; 1],
}

/// Lists the model.
pub(crate) async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: [describe(&app)] })
}

/// Describes the model, under its name or another name of it.
pub(crate) async fn get(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<ModelBody>, ApiError> {
    app.check_model(Some(&name))?;
    Ok(Json(describe(&app)))
}

fn describe(app: &App) -> ModelBody {
    ModelBody {
        id: app.model_name().to_owned(),
        object: "model",
        created: app.started(),
        owned_by: "sparkv",
        max_model_len: app.context_length(),
    }
}
