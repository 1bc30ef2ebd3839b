//! /v1/completions.

mod convert;
mod types;
mod validate;

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::completions::convert::{CompletionReply, PromptTold};
use crate::error::ApiError;
use crate::generation::answer::answer;
use crate::http::body::Fields;
use crate::schema::ServerSentEvent;
use crate::unsupported;

/// The field that holds the prompts.
const PROMPT: &str = "prompt";

/// Continues texts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = types::CompletionBody,
    responses((status = 200, description = "The answers; with `stream`, in chunks, then `[DONE]`", content(
        (types::Completion = "application/json"),
        (ServerSentEvent = "text/event-stream"),
    )))
)]
pub(crate) async fn complete(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::CompletionBody::take(&mut fields);
    let refusals = fields.finish(unsupported::completions)?;
    let echo = body.own.echo.unwrap_or(false);
    let prompt = PromptTold {
        in_logprobs: echo && body.own.logprobs.is_some(),
        apart: body.generation.prompt_logprobs.is_some(),
    };
    let checked = refusals.check(|refusals| validate::validate(body, refusals, &app))?;
    let echo = if echo { validate::echo(&checked.requests.requests, &app)? } else { Vec::new() };
    let reply = CompletionReply::new(app.model_name(), checked.delivery, &checked.requests, echo, prompt);
    answer(&app, checked, |_| reply).await
}
