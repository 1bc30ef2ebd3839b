//! Request bodies: read within limits, parsed into fields, taken one by one.
//!
//! Routes take from [`Fields`] the fields they honour, by name; whatever nobody took is refused at the end. So
//! a field can be honoured or refused, but not forgotten.

use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::ApiError;

/// A body may pause this long between two pieces.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

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
            Some(value) => serde_path_to_error::deserialize(value)
                .map(Some)
                .map_err(|error| ApiError::invalid(join(name, error.path()), error.inner().to_string())),
        }
    }

    /// The fields that are left.
    pub(crate) fn into_rest(self) -> Map<String, Value> {
        self.0
    }

    /// Parses a JSON object.
    ///
    /// # Errors
    /// If `bytes` are not UTF-8, not JSON, not an object, or name a field twice.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ApiError::Malformed(format!("the body is not valid UTF-8: {error}")))?;
        let mut parser = serde_json::Deserializer::from_str(text);
        let fields =
            parser
                .deserialize_map(FieldsVisitor)
                .and_then(|fields| parser.end().map(|()| fields))
                .map_err(|error| ApiError::Malformed(format!("the body is not a JSON object: {error}")))?;
        Ok(fields)
    }
}

/// `messages` and `[0].role` make `messages[0].role`.
fn join(name: &str, path: &serde_path_to_error::Path) -> String {
    match path.to_string().as_str() {
        "." => name.to_owned(),
        path if path.starts_with('[') => format!("{name}{path}"),
        path => format!("{name}.{path}"),
    }
}

/// Refuses fields given twice, of which a plain map would drop one.
struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Map::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("field `{name}` is given twice")));
            }
            fields.insert(name, value);
        }
        Ok(Fields(fields))
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
/// If it is larger than `limit` bytes, pauses too long, or breaks off.
async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
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

    #[test]
    fn a_type_error_names_the_innermost_field() {
        let mut fields = Fields::parse(br#"{"kv_cache": {"pruning": {"key_ratio": "much"}}}"#).unwrap();
        let error = fields.take::<sparkv::KvOptions>("kv_cache").unwrap_err();
        assert_eq!(error.body()["error"]["param"], "kv_cache.pruning.key_ratio");
    }

    #[test]
    fn an_unknown_nested_field_is_named() {
        let mut fields = Fields::parse(br#"{"kv_cache": {"pruning": {"keys": 1}}}"#).unwrap();
        let error = fields.take::<sparkv::KvOptions>("kv_cache").unwrap_err();
        assert_eq!(error.body()["error"]["param"], "kv_cache.pruning.keys");
    }

    #[test]
    fn null_is_absent_and_the_rest_stays() {
        let mut fields = Fields::parse(br#"{"seed": null, "other": 1}"#).unwrap();
        assert_eq!(fields.take::<u64>("seed").unwrap(), None);
        assert_eq!(fields.into_rest().len(), 1);
    }

    #[test]
    fn what_is_not_one_json_object_is_malformed() {
        for bytes in [&b"[]"[..], b"{", b"", b"{} {}", b"\xff", br#"{"a": 1, "a": 2}"#, b"{\"a\": \"\xff\"}"]
        {
            assert!(matches!(Fields::parse(bytes), Err(ApiError::Malformed(_))), "{bytes:?}");
        }
    }
}
