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
use crate::reply::{Answers, respond};

/// The field that holds the prompts.
const PROMPT: &str = "prompt";

/// Continues texts.
pub(crate) async fn complete(State(app): State<App>, fields: Fields) -> Result<Response, ApiError> {
    let body = types::CompletionBody::take(fields)?;
    let echo = body.echo.unwrap_or(false);
    let Checked { work, delivery, parser } = validate::validate(body, &app)?;
    let echo = if echo { validate::echo(&work.requests, &app)? } else { Vec::new() };
    let reply = convert::CompletionReply::new(app.model_name(), delivery, &work, echo);
    let events = app.generate(work).await?;
    respond(Answers { events, parser }, reply, delivery).await
}
