//! /v1/messages and /v1/messages/count_tokens, as Anthropic has them.

mod conversation;
mod convert;
mod types;
mod validate;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sparkv_engine::Prompt;

use crate::app::App;
use crate::conversation::Conversation;
use crate::error::{ApiError, ErrorBody, Fault};
use crate::generation::answer::answer;
use crate::generation::fields::ModelField;
use crate::generation::instrumented::InstrumentedEvents;
use crate::http::body::Fields;
use crate::schema::ServerSentEvent;
use crate::unsupported;

/// The field that holds the conversation.
const PROMPT: &str = "messages";

/// What the paths of these routes begin with.
const ROUTE: &str = "/v1/messages";

/// An error as Anthropic's clients read it: a mark beside the common shape, and types of its own.
#[derive(Debug, Serialize)]
struct MarkedError {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    body: ErrorBody,
}

impl MarkedError {
    fn new(status: StatusCode, mut body: ErrorBody) -> Self {
        body.error.kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        Self { kind: "error", body }
    }
}

/// Writes the errors of these routes as Anthropic's clients read them, wherever they were made.
pub(crate) async fn mark_errors(request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with(ROUTE);
    let response = next.run(request).await;
    match response.extensions().get::<ApiError>() {
        Some(error) if is_ours => {
            let marked = MarkedError::new(response.status(), error.body());
            let (head, _) = response.into_parts();
            Response::from_parts(head, Json(marked).into_response().into_body())
        }
        _ => response,
    }
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    request_body = types::MessagesRequest,
    responses((status = 200, description = "The answer; with `stream`, events of the API's types", content(
        (types::MessageBody = "application/json"),
        (ServerSentEvent = "text/event-stream"),
    )))
)]
pub(crate) async fn create(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::MessagesBody::take(&mut fields);
    let refusals = fields.finish(unsupported::messages)?;
    let checked = refusals.check(|refusals| validate::validate(body, refusals, &app))?;
    let reply = |events: &[InstrumentedEvents]| {
        // Those read from the cache are known at the end only.
        let prompt_tokens = events.first().map_or(0, InstrumentedEvents::prompt_tokens);
        convert::MessagesReply::new(app.model_name(), prompt_tokens)
    };
    answer(&app, checked, reply).await
}

/// Tells how many tokens a conversation has.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    request_body = types::CountTokensRequest,
    responses((status = 200, description = "The number", body = types::TokenCount))
)]
pub(crate) async fn count_tokens(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<types::TokenCount>, ApiError> {
    let ModelField { model } = ModelField::take(&mut fields);
    let conversation = types::ConversationFields::take(&mut fields);
    let refusals = fields.finish(unsupported::count_tokens)?;
    app.check_model(model.as_deref())?;
    let Conversation { chat, .. } = refusals.check(|refusals| conversation::check(conversation, refusals))?;
    let tokens = app.encode(move |engine| engine.text().encode(Prompt::Chat(chat))).await?;
    let tokens = tokens.map_err(|error| ApiError::refused(error, &Fault::of_prompt(PROMPT)))?;
    Ok(Json(types::TokenCount { input_tokens: tokens.len() }))
}
