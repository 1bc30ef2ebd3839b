//! Which web pages may call, by the origin that browsers send.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Stands for every origin.
const ANY: &str = "*";

/// How long a browser may go by an answer about what is allowed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// What pages may read of an answer's headers beyond the few that they always may.
const EXPOSED: [HeaderName; 2] = [HeaderName::from_static("x-request-id"), header::RETRY_AFTER];

/// Origins whose pages may call; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsOrigins {
    any: bool,
    origins: Vec<HeaderValue>,
}

/// What no browser would send as an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin: `*`, or scheme, host and port, such as `https://example.org` or `http://localhost:3000`, without a path"
)]
pub struct InvalidOrigin(String);

impl CorsOrigins {
    /// Origins such as `https://example.org`; `*` among them stands for every one.
    ///
    /// # Errors
    /// If one of them is no origin.
    pub fn new(origins: &[String]) -> Result<Self, InvalidOrigin> {
        let mut all = Self::default();
        for origin in origins {
            if origin == ANY {
                all.any = true;
            } else if is_origin(origin) {
                let value = HeaderValue::from_str(origin).map_err(|_| InvalidOrigin(origin.clone()))?;
                all.origins.push(value);
            } else {
                return Err(InvalidOrigin(origin.clone()));
            }
        }
        Ok(all)
    }

    /// The routes, with what browsers want to know. They ask before they send a key along, so that the question
    /// is answered here, outside of what wants one.
    pub(crate) fn around(&self, routes: Router) -> Router {
        let origins = if self.any {
            AllowOrigin::any()
        } else if self.origins.is_empty() {
            return routes;
        } else {
            AllowOrigin::list(self.origins.iter().cloned())
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            // A `*` would leave out `Authorization`.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED)
            .max_age(MAX_AGE);
        routes.layer(layer)
    }
}

/// Whether this is `scheme://host` or `scheme://host:port`, as browsers write it: in lower case, nothing behind.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let host = uri.host().unwrap_or("");
    !scheme.is_empty()
        && !host.is_empty()
        && !host.contains('*')
        && !rest.contains(['/', '?', '#', '@'])
        && text == text.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        let new = |origin: &str| CorsOrigins::new(&[origin.to_owned()]);
        for origin in
            ["*", "https://example.org", "http://localhost:3000", "http://[::1]:8080", "tauri://localhost"]
        {
            assert!(new(origin).is_ok(), "{origin}");
        }
        for origin in [
            "",
            "example.org",
            "https://",
            "https://example.org/",
            "https://example.org/page",
            "https://a@b",
            "https://Example.org",
            "https://*.example.org",
            "two words",
            "https://a b",
            "null",
        ] {
            assert_eq!(new(origin), Err(InvalidOrigin(origin.to_owned())));
        }
    }
}
