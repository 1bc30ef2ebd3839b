//! /v1/responses, as far as nothing has to be stored for it.

mod convert;
mod items;
mod types;
mod validate;

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::generation::answer::answer;
use crate::http::body::Fields;
use crate::schema::ServerSentEvent;
use crate::unsupported;

/// The field that holds the conversation.
const PROMPT: &str = "input";

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/responses",
    request_body = types::ResponsesRequest,
    responses((status = 200, description = "The answer; with `stream`, events of the API's types", content(
        (types::ResponseBody = "application/json"),
        (ServerSentEvent = "text/event-stream"),
    )))
)]
pub(crate) async fn create(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::ResponsesBody::take(&mut fields);
    let refusals = fields.finish(unsupported::responses)?;
    let (checked, echo) = refusals.check(|refusals| validate::validate(body, refusals, &app))?;
    answer(&app, checked, |_| convert::ResponsesReply::new(app.model_name(), echo)).await
}
