//! The API key.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::error::ApiError;

/// A secret that clients send as `Authorization: Bearer KEY`. Never printed.
#[derive(Clone)]
pub struct ApiKey(String);

/// The key is empty, or has characters that no HTTP header can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key has one or more visible ASCII characters and no spaces")]
pub struct InvalidApiKey;

impl ApiKey {
    /// A key.
    ///
    /// # Errors
    /// If no client could ever send it.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidApiKey> {
        let key = key.into();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidApiKey);
        }
        Ok(Self(key))
    }

    /// Takes the same time wherever `given` differs, so that the key cannot be guessed piece by piece.
    fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Lets requests pass that carry the key, or all of them if none is set.
pub(crate) async fn require_key(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = app.api_key() else { return Ok(next.run(request).await) };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    match given {
        Some(given) if key.matches(given) => Ok(next.run(request).await),
        _ => Err(ApiError::Unauthorized),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_sent_is_refused() {
        for key in ["", "two words", "schlüssel", "line\nbreak"] {
            assert_eq!(ApiKey::new(key).unwrap_err(), InvalidApiKey, "{key:?}");
        }
        assert!(ApiKey::new("sk-123").is_ok());
    }

    #[test]
    fn a_key_is_not_printed() {
        assert!(!format!("{:?}", ApiKey::new("secret").unwrap()).contains("secret"));
    }
}
