//! The route.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::metrics::classic::classic;

/// Where it is.
pub(crate) const PATH: &str = "/metrics";

/// The format of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// The older format.
const TEXT: &str = "text/plain";

/// The figures of this moment: in OpenMetrics' format for who asks for it, in the older one for all others.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((
        status = 200,
        description = "Figures for Prometheus",
        content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )
    ))
)]
pub(crate) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let text = app.metrics().text().map_err(|error| ApiError::Internal(error.to_string()))?;
    let (content_type, text) = if wants_openmetrics(&headers) {
        (format!("{OPENMETRICS}; version=1.0.0; charset=utf-8"), text)
    } else {
        (format!("{TEXT}; version=0.0.4; charset=utf-8"), classic(&text))
    };
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// Whether `Accept` names OpenMetrics, and nothing that it likes better.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wanted: Vec<(&str, f32)> = values.flat_map(|value| value.split(',')).map(media_range).collect();
    let weight = |name: &str| {
        let weights = wanted.iter().filter(|(range, _)| range.eq_ignore_ascii_case(name)).map(|(_, q)| *q);
        weights.fold(0.0, f32::max)
    };
    weight(OPENMETRICS) > 0.0 && weight(OPENMETRICS) >= weight(TEXT)
}

/// A media type of `Accept`, and how much it is wanted.
fn media_range(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().unwrap_or("");
    let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok());
    (name, weight.unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_accept_likes_best() {
        for (accept, expected) in [
            ("application/openmetrics-text; version=1.0.0", true),
            // Prometheus.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
            ("text/plain", false),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wants_openmetrics(&headers), expected, "{accept}");
        }
    }
}
