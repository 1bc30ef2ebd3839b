//! /v1/completions.

mod convert;
mod types;
mod validate;

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::body::Fields;
use crate::common::validate::Checked;
use crate::error::ApiError;
use crate::reply::respond;

/// The field that holds the prompt.
const PROMPT: &str = "prompt";

/// Continues a text.
pub(crate) async fn complete(State(app): State<App>, fields: Fields) -> Result<Response, ApiError> {
    let body = types::CompletionBody::take(fields)?;
    let Checked { request, delivery, fault } = validate::validate(body, &app)?;
    let reply = convert::CompletionReply::new(app.model_name(), delivery);
    respond(app.generate(request, &fault).await?, reply, delivery).await
}
