//! /v1/chat/completions.

pub(crate) mod conversation;
mod convert;
pub(crate) mod tools;
pub(crate) mod types;
mod validate;

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::body::Fields;
use crate::common::validate::Checked;
use crate::error::ApiError;
use crate::reply::{Answers, respond};

/// The field that holds the prompt.
pub(crate) const PROMPT: &str = "messages";

/// Answers a conversation.
pub(crate) async fn complete(State(app): State<App>, fields: Fields) -> Result<Response, ApiError> {
    let body = types::ChatBody::take(fields)?;
    let Checked { work, delivery, parser } = validate::validate(body, &app)?;
    let reply = convert::ChatReply::new(app.model_name(), work.answers, delivery, &work.requests);
    let events = app.generate(work).await?;
    respond(Answers { events, parser }, reply, delivery).await
}
