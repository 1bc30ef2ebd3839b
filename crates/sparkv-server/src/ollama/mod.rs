//! /api/..., as ollama has them: answers in lines of JSON, and errors that are a message and nothing else.

mod convert;
pub(crate) mod models;
mod options;
mod types;
mod validate;

pub(crate) use self::types::ErrorLine;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::generation::answer::answer;
use crate::generation::validate::Checked;
use crate::http::body::Fields;
use crate::ollama::convert::{OllamaReply, Route};
use crate::unsupported;

/// What the paths of these routes begin with.
pub(crate) const ROUTES: &str = "/api/";

/// What stands behind a name that says nothing of a version.
const LATEST: &str = ":latest";

/// Takes requests to these routes as ollama's clients send them, and writes errors as they read them, wherever they were
/// made.
pub(crate) async fn adapt(mut request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with(ROUTES);
    // `curl -d` says that it sends a form. Pages of other origins could say so, too, without asking: they tell their origin.
    if is_ours && !request.headers().contains_key(ORIGIN) {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let response = next.run(request).await;
    match response.extensions().get::<ApiError>() {
        Some(error) if is_ours => {
            let line = ErrorLine::from(error);
            let (head, _) = response.into_parts();
            Response::from_parts(head, Json(line).into_response().into_body())
        }
        _ => response,
    }
}

/// Checks that `name` is the model that is served. Ollama's names know no case, and have a version that may be left out.
///
/// # Errors
/// [`ApiError::UnknownModel`].
fn check_model(app: &App, name: Option<&str>) -> Result<(), ApiError> {
    let Some(name) = name else { return Ok(()) };
    let end = name.len().saturating_sub(LATEST.len());
    let bare = name.get(end..).filter(|end| end.eq_ignore_ascii_case(LATEST)).and_then(|_| name.get(..end));
    let config = app.config();
    let is_served = [Some(name), bare].into_iter().flatten().any(|name| {
        let mut names = std::iter::once(&config.model_name).chain(&config.model_aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    });
    if is_served { Ok(()) } else { app.check_model(Some(name)) }
}

/// Answers a conversation; without messages, says that the model is loaded.
#[utoipa::path(
    post,
    path = "/api/chat",
    request_body = types::ChatBody,
    responses((status = 200, description = "The answer; unless `stream` is false, piece by piece, a line each", content(
        (types::Line = "application/json"),
        (types::Line = "application/x-ndjson"),
    )))
)]
pub(crate) async fn chat(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::ChatBody::take(&mut fields);
    let model = body.common.model.clone();
    let refusals = fields.finish(unsupported::ollama)?;
    let checked = refusals.check(|refusals| validate::chat(body, refusals, &app))?;
    respond(&app, Route::Chat, model, checked).await
}

/// Answers a prompt; without one, says that the model is loaded.
#[utoipa::path(
    post,
    path = "/api/generate",
    request_body = types::GenerateBody,
    responses((status = 200, description = "The answer; unless `stream` is false, piece by piece, a line each", content(
        (types::Line = "application/json"),
        (types::Line = "application/x-ndjson"),
    )))
)]
pub(crate) async fn generate(State(app): State<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let body = types::GenerateBody::take(&mut fields);
    let model = body.common.model.clone();
    let refusals = fields.finish(unsupported::ollama)?;
    let checked = refusals.check(|refusals| validate::generate(body, refusals, &app))?;
    respond(&app, Route::Generate, model, checked).await
}

/// Answers what was asked, under the name by which it was asked for.
async fn respond(
    app: &App,
    route: Route,
    model: Option<String>,
    checked: Option<Checked>,
) -> Result<Response, ApiError> {
    let reply = OllamaReply::new(route, model.unwrap_or_else(|| app.model_name().to_owned()));
    match checked {
        Some(checked) => answer(app, checked, |_| reply).await,
        None => {
            app.check_ready()?;
            Ok(Json(reply.loaded()).into_response())
        }
    }
}
