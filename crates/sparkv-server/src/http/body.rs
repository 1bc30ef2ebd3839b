//! Request bodies: read within limits, parsed into fields, taken one by one.
//!
//! Routes take from [`Fields`] the fields they honour, by name; whatever nobody took is refused at the end. So
//! a field can be honoured or refused, but not forgotten.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::ApiError;
use crate::http::json;

/// A body may pause this long between two pieces.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A body must have come by then, however slowly: one that drips would keep its connection's slot for ever.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes read and thrown away of a body that is too large. A client that is still sending when the
/// connection closes sees a reset connection in place of the 413.
const DISCARD_LIMIT: usize = 64 << 20;

/// The fields of a JSON object that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Takes a field out; `None` if it is absent or null.
    ///
    /// # Errors
    /// If its value has another type; `param` is the path of the innermost field at fault.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read_value(name, value).map(Some),
        }
    }

    /// Checks that what is at `path`, if anything, is an object: serde takes an array for the fields of a
    /// struct, in the order they happen to be declared in.
    ///
    /// # Errors
    /// If it is something else; `example` is what it could be.
    pub(crate) fn check_object(&self, path: &[&str], example: &str) -> Result<(), ApiError> {
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        let mut value = self.0.get(*first);
        for name in rest {
            value = value.and_then(|value| value.get(name));
        }
        match value {
            None | Some(Value::Null | Value::Object(_)) => Ok(()),
            Some(_) => {
                Err(ApiError::invalid(path.join("."), format!("must be an object, such as {example}")))
            }
        }
    }

    /// Takes the fields that are left.
    pub(crate) fn take_rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.0)
    }

    /// Parses a JSON object.
    ///
    /// # Errors
    /// If `bytes` are not UTF-8, not JSON, not an object, or name a field twice.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ApiError::Malformed(format!("the body is not valid UTF-8: {error}")))?;
        json::parse_object(text)
            .map(Self)
            .map_err(|error| ApiError::Malformed(format!("the body is not a JSON object: {error}")))
    }
}

/// Reads the value of the field `name`.
///
/// # Errors
/// If it has another type; `param` is the path of the innermost field at fault.
pub(crate) fn read_value<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| ApiError::invalid(join(name, error.path()), in_json_s_words(error.inner())))
}

/// What serde says of a value of the wrong type, with JSON's names of types in place of Rust's.
fn in_json_s_words(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let Some((found, expected)) = message.rsplit_once("expected ") else { return message };
    let found = match found {
        "invalid type: sequence, " => "invalid type: array, ",
        "invalid type: map, " => "invalid type: object, ",
        found => found,
    };
    let expected = match expected {
        "u32" | "u64" | "usize" => "an integer of at least 0",
        "i64" => "an integer",
        "f32" | "f64" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        expected => expected,
    };
    format!("{found}expected {expected}")
}

/// `messages` and `[0].role` make `messages[0].role`.
fn join(name: &str, path: &serde_path_to_error::Path) -> String {
    match path.to_string().as_str() {
        "." => name.to_owned(),
        path if path.starts_with('[') => format!("{name}{path}"),
        path => format!("{name}.{path}"),
    }
}

impl FromRequest<App> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let limit = app.body_limit();
        if !is_json(request.headers()) {
            return Err(ApiError::NotJson);
        }
        if announces_more_than(limit, request.headers()) {
            return Err(ApiError::BodyTooLarge { limit });
        }
        Self::parse(&read(request.into_body(), limit).await?)
    }
}

/// Whether the content type is `application/json` or `application/*+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Whether the client waits for permission (`Expect: 100-continue`) to send a body that is too large. Others
/// are sending already, and what they send has to be read before they listen.
fn announces_more_than(limit: usize, headers: &HeaderMap) -> bool {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    headers.contains_key(header::EXPECT) && length.is_some_and(|length| length > limit)
}

/// Reads the whole body.
///
/// # Errors
/// If it is larger than `limit` bytes, pauses or takes too long, or breaks off.
async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    tokio::time::timeout(WHOLE_TIMEOUT, read_pieces(body, limit)).await.map_err(|_| ApiError::BodyTimeout)?
}

/// The same, but for the time it takes in all.
async fn read_pieces(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut received = 0usize;
    loop {
        let piece = tokio::time::timeout(IDLE_TIMEOUT, pieces.next()).await;
        match piece.map_err(|_| ApiError::BodyTimeout)? {
            Some(Ok(piece)) => {
                received = received.saturating_add(piece.len());
                if received <= limit {
                    bytes.extend_from_slice(&piece);
                } else {
                    bytes = Vec::new();
                }
                if received > limit.saturating_add(DISCARD_LIMIT) {
                    return Err(ApiError::BodyTooLarge { limit });
                }
            }
            Some(Err(error)) => return Err(ApiError::Malformed(format!("the body broke off: {error}"))),
            None if received > limit => return Err(ApiError::BodyTooLarge { limit }),
            None => return Ok(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of `count` pieces, one every `pause`.
    fn dripping(count: usize, pause: Duration) -> Body {
        Body::from_stream(futures::stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(" ")
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_but_not_for_ever() {
        let seconds = Duration::from_secs;
        assert_eq!(read(dripping(14, seconds(20)), 100).await.unwrap().len(), 14);
        assert_eq!(read(dripping(2, seconds(31)), 100).await, Err(ApiError::BodyTimeout));
        assert_eq!(read(dripping(16, seconds(20)), 100).await, Err(ApiError::BodyTimeout));
    }

    #[test]
    fn a_type_error_names_the_innermost_field() {
        let mut fields = Fields::parse(br#"{"kv_cache": {"pruning": {"key_ratio": "much"}}}"#).unwrap();
        let error = fields.take::<sparkv::KvOptions>("kv_cache").unwrap_err();
        assert_eq!(error.body().error.param.unwrap(), "kv_cache.pruning.key_ratio");
    }

    #[test]
    fn an_unknown_nested_field_is_named() {
        let mut fields = Fields::parse(br#"{"kv_cache": {"pruning": {"keys": 1}}}"#).unwrap();
        let error = fields.take::<sparkv::KvOptions>("kv_cache").unwrap_err();
        assert_eq!(error.body().error.param.unwrap(), "kv_cache.pruning.keys");
    }

    #[test]
    fn an_object_is_not_an_array() {
        let fields = Fields::parse(br#"{"a": {"b": [1], "c": null}, "d": "x"}"#).unwrap();
        for path in [&["a"][..], &["a", "c"], &["a", "e"], &["f", "g"], &["d", "g"]] {
            assert_eq!(fields.check_object(path, "{}"), Ok(()), "{path:?}");
        }
        let error = fields.check_object(&["a", "b"], "{\"n\": 1}").unwrap_err();
        assert_eq!(error, ApiError::invalid("a.b", "must be an object, such as {\"n\": 1}"));
        assert!(fields.check_object(&["d"], "{}").is_err());
    }

    #[test]
    fn types_have_json_s_names() {
        let message = |name| {
            let mut fields = Fields::parse(br#"{"n": "x", "list": 1}"#).unwrap();
            let error = if name == "n" {
                fields.take::<usize>(name).unwrap_err()
            } else {
                fields.take::<Vec<u32>>(name).unwrap_err()
            };
            error.to_string()
        };
        assert!(
            message("n").ends_with("string \"x\", expected an integer of at least 0"),
            "{}",
            message("n")
        );
        assert!(message("list").ends_with("integer `1`, expected an array"), "{}", message("list"));
    }

    #[test]
    fn null_is_absent_and_the_rest_stays() {
        let mut fields = Fields::parse(br#"{"seed": null, "other": 1}"#).unwrap();
        assert_eq!(fields.take::<u64>("seed").unwrap(), None);
        assert_eq!(fields.take_rest().len(), 1);
    }

    #[test]
    fn what_is_not_one_json_object_is_malformed() {
        for bytes in [&b"[]"[..], b"{", b"", b"{} {}", b"\xff", br#"{"a": 1, "a": 2}"#, b"{\"a\": \"\xff\"}"]
        {
            assert!(matches!(Fields::parse(bytes), Err(ApiError::Malformed(_))), "{bytes:?}");
        }
    }
}
