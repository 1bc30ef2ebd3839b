//! /v1/messages and /v1/messages/count_tokens, as Anthropic has them.

mod conversation;
mod convert;
mod types;
mod validate;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sparkv_engine::Prompt;

use crate::app::App;
use crate::body::Fields;
use crate::chat::conversation::Conversation;
use crate::common::types::ModelField;
use crate::common::validate::Checked;
use crate::error::{ApiError, ErrorBody, Fault};
use crate::observed::Observed;
use crate::reply::{Answers, respond};
use crate::unsupported;

/// The field that holds the conversation.
const PROMPT: &str = "messages";

/// An error as clients of either kind read it: the common shape, and the mark that Anthropic's have.
#[derive(Debug)]
pub(crate) struct MarkedError(ApiError);

/// Its body.
#[derive(Debug, Serialize)]
struct MarkedBody {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    body: ErrorBody,
}

impl MarkedError {
    fn mark(body: ErrorBody) -> MarkedBody {
        MarkedBody { kind: "error", body }
    }
}

impl From<ApiError> for MarkedError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for MarkedError {
    fn into_response(self) -> Response {
        let body = Json(Self::mark(self.0.body())).into_response().into_body();
        let (head, _) = self.0.into_response().into_parts();
        Response::from_parts(head, body)
    }
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    request_body = types::MessagesRequest,
    responses((status = 200, description = "The answer; with `stream`, events of the API's types", content(
        (types::MessageBody = "application/json"),
        (String = "text/event-stream"),
    )))
)]
pub(crate) async fn create(
    State(app): State<App>,
    fields: Result<Fields, ApiError>,
) -> Result<Response, MarkedError> {
    let body = types::MessagesBody::take(fields?)?;
    let Checked { work, delivery, parser } = validate::validate(body, &app)?;
    let events = app.generate(work).await?;
    // Those read from the cache are known at the end only.
    let prompt_tokens = events.first().map_or(0, Observed::prompt_tokens);
    let reply = convert::MessagesReply::new(app.model_name(), prompt_tokens);
    Ok(respond(Answers { events, parser }, reply, delivery).await?)
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
    fields: Result<Fields, ApiError>,
) -> Result<Json<types::TokenCount>, MarkedError> {
    let mut fields = fields?;
    app.check_model(ModelField::take(&mut fields)?.model.as_deref())?;
    let conversation = types::ConversationFields::take(&mut fields)?;
    unsupported::refuse(&fields.take_rest(), "", unsupported::count_tokens)?;
    let Conversation { chat, .. } = conversation::check(conversation)?;
    let tokens = app.encode(move |engine| engine.text().encode(Prompt::Chat(chat))).await?;
    let fault = Fault { prompt: PROMPT, max_tokens: "max_tokens", format: "tools", default_kv: false };
    let tokens = tokens.map_err(|error| ApiError::refused(error, &fault))?;
    Ok(Json(types::TokenCount { input_tokens: tokens.len() }))
}
