//! Who may pass.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::metrics;

/// Where Anthropic's clients put the key.
const X_API_KEY: &str = "x-api-key";

/// Lets requests pass that carry a key, or all of them if there is none; those for metrics, too, if the operator says so.
pub(crate) async fn require_key(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let policy = app.policy();
    let is_open = app.config().metrics_open && request.uri().path() == metrics::route::PATH;
    if is_open
        || policy.api_keys.is_empty()
        || given(request.headers()).any(|key| policy.api_keys.contain(key))
    {
        Ok(next.run(request).await)
    } else {
        Err(ApiError::Unauthorized)
    }
}

/// The keys that a request carries.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let own = headers.get(X_API_KEY).and_then(|value| value.to_str().ok()).map(str::trim);
    bearer.into_iter().chain(own)
}
