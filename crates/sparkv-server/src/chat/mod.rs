//! /v1/chat/completions.

mod convert;
mod types;
mod validate;

pub(crate) use self::types::ChatChunk;

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::generation::answer::answer;
use crate::http::body::Fields;
use crate::schema::ServerSentEvent;
use crate::unsupported;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body = types::ChatBody,
    responses((status = 200, description = "The answers; with `stream`, in chunks, then `[DONE]`", content(
        (types::ChatCompletion = "application/json"),
        (ServerSentEvent = "text/event-stream"),
    )))
)]
pub(crate) async fn complete(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::ChatBody::take(&mut fields);
    let refusals = fields.finish(unsupported::chat)?;
    let checked = refusals.check(|refusals| validate::validate(body, refusals, &app))?;
    let reply = convert::ChatReply::new(app.model_name(), checked.delivery, &checked.requests);
    answer(&app, checked, |_| reply).await
}
