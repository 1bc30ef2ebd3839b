//! Request bodies: read within limits, parsed into fields, taken one by one.
//!
//! Routes take from [`Fields`] the fields they honour, by name; whatever nobody took is refused at the end. So
//! a field can be honoured or refused, but not forgotten, and all that is refused is named at once.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::ApiError;
use crate::http::coding::Coding;
use crate::http::json;
use crate::refusals::{Refusals, UnknownFields};
use crate::unsupported::Rule;

/// A body may pause this long between two pieces.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A body must have come by then, however slowly: one that drips would keep its connection's slot for ever.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What some editors and libraries put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes read and thrown away of a body that is too large. A client that is still sending when the
/// connection closes sees a reset connection in place of the 413.
const DISCARD_LIMIT: usize = 64 << 20;

/// The fields of a JSON object that nobody has taken yet, and what is wrong with those that were.
#[derive(Debug)]
pub(crate) struct Fields {
    left: Map<String, Value>,
    refusals: Refusals,
}

impl Fields {
    /// Takes a field out; `None` if it is absent or null, or has another type, which is refused at the end.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        match self.left.shift_remove(name)? {
            Value::Null => None,
            value => self.refusals.note(read_value(name, value)),
        }
    }

    /// A field that is still there.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.left.get(name)
    }

    /// Checks that what is at `path`, if anything, is an object, and refuses the whole field if not: serde takes an
    /// array for the fields of a struct, in the order they happen to be declared in. `example` is what it could be.
    pub(crate) fn check_object(&mut self, path: &[&str], example: &str) {
        let Some((first, rest)) = path.split_first() else { return };
        let mut value = self.left.get(*first);
        for name in rest {
            value = value.and_then(|value| value.get(name));
        }
        if !matches!(value, None | Some(Value::Null | Value::Object(_))) {
            self.left.remove(*first);
            let message = format!("must be an object, such as {example}");
            self.refusals.note::<()>(Err(ApiError::invalid(path.join("."), message)));
        }
    }

    /// Refuses the fields that are left, unless they are neutral by `rules`; what is refused can grow.
    ///
    /// # Errors
    /// All that is wrong so far, if fields that were taken had other types: there is no sense in checking the others.
    pub(crate) fn finish(self, rules: fn(&str) -> Option<Rule>) -> Result<Refusals, ApiError> {
        let Self { left, mut refusals } = self;
        let are_right = refusals.is_empty();
        refusals.rest(&left, "", rules);
        if are_right { Ok(refusals) } else { refusals.end(Ok(Refusals::new(UnknownFields::Refuse))) }
    }

    /// Parses a JSON object.
    ///
    /// # Errors
    /// If `bytes` are not UTF-8, not JSON, not an object, or name a field twice.
    pub(crate) fn parse(bytes: &[u8], unknown: UnknownFields) -> Result<Self, ApiError> {
        let malformed = |error: &str| ApiError::Malformed(format!("the body is not a JSON object: {error}"));
        if bytes.starts_with(BYTE_ORDER_MARK) {
            return Err(malformed("it begins with a UTF-8 byte order mark (EF BB BF); send it without"));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ApiError::Malformed(format!("the body is not valid UTF-8: {error}")))?;
        let left = json::parse_object(text).map_err(|error| malformed(&named(json::fault(&error))))?;
        Ok(Self { left, refusals: Refusals::new(unknown) })
    }
}

/// Reads the value of the field `name`. JSON has one kind of numbers: 4.0 is an integer where one is wanted.
///
/// # Errors
/// If it has another type; `param` is the path of the innermost field at fault.
pub(crate) fn read_value<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, ApiError> {
    let integers = json::with_integers(&value);
    serde_path_to_error::deserialize(value)
        .or_else(|error| match integers {
            Some(value) => serde_path_to_error::deserialize(value),
            None => Err(error),
        })
        .map_err(|error| ApiError::invalid(join(name, error.path()), named(error.inner().to_string())))
}

/// What serde says of a value of the wrong type, with JSON's names of types in place of Rust's.
fn named(message: String) -> String {
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
        let coding = Coding::of(request.headers())?;
        let body = coding.decoded(read(request.into_body(), limit).await?, limit).await?;
        Self::parse(&body, app.config().unknown_fields)
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

    fn parse(bytes: &[u8]) -> Result<Fields, ApiError> {
        Fields::parse(bytes, UnknownFields::Refuse)
    }

    /// What is refused of a body whose fields `take` takes.
    fn refused(bytes: &[u8], take: impl FnOnce(&mut Fields)) -> ApiError {
        let mut fields = parse(bytes).unwrap();
        take(&mut fields);
        fields.finish(|_| None).unwrap_err()
    }

    fn param(error: &ApiError) -> String {
        error.body().error.param.unwrap()
    }

    #[test]
    fn a_type_error_names_the_innermost_field() {
        let error = refused(br#"{"kv_cache": {"pruning": {"key_ratio": "much"}}}"#, |fields| {
            assert_eq!(fields.take::<sparkv::KvOptions>("kv_cache"), None);
        });
        assert_eq!(param(&error), "kv_cache.pruning.key_ratio");
    }

    #[test]
    fn an_unknown_nested_field_is_named() {
        let error = refused(br#"{"kv_cache": {"pruning": {"keys": 1}}}"#, |fields| {
            assert_eq!(fields.take::<sparkv::KvOptions>("kv_cache"), None);
        });
        assert_eq!(param(&error), "kv_cache.pruning.keys");
    }

    #[test]
    fn an_object_is_not_an_array() {
        let body = br#"{"a": {"b": [1], "c": null}, "d": "x"}"#;
        let check = |path: &[&str], left: usize| {
            let mut fields = parse(body).unwrap();
            fields.check_object(path, "{\"n\": 1}");
            assert_eq!((fields.left.len(), fields.refusals.is_empty()), (left, left == 2), "{path:?}");
            fields.refusals.end(Ok(()))
        };
        for path in [&["a"][..], &["a", "c"], &["a", "e"], &["f", "g"], &["d", "g"]] {
            assert_eq!(check(path, 2), Ok(()));
        }
        let wrong = |path| Err(ApiError::invalid(path, "must be an object, such as {\"n\": 1}"));
        assert_eq!(check(&["a", "b"], 1), wrong("a.b"));
        assert_eq!(check(&["d"], 1), wrong("d"));
    }

    #[test]
    fn types_have_json_s_names() {
        let error = refused(br#"{"n": "x", "list": 1}"#, |fields| {
            assert_eq!(fields.take::<usize>("n"), None);
            assert_eq!(fields.take::<Vec<u32>>("list"), None);
        });
        let message = error.to_string();
        assert!(message.contains("string \"x\", expected an integer of at least 0; list"), "{message}");
        assert!(message.ends_with("integer `1`, expected an array"), "{message}");
    }

    #[test]
    fn null_is_absent_and_the_rest_is_refused_together() {
        let error =
            refused(br#"{"seed": null, "other": 1, "nothing": null, "n": -1, "more": {}}"#, |fields| {
                assert_eq!((fields.take::<u64>("seed"), fields.take::<u64>("n")), (None, None));
            });
        let message = error.to_string();
        assert_eq!(param(&error), "n");
        assert!(message.ends_with("; unknown field `other`; unknown field `more`"), "{message}");
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        let mut fields =
            parse(br#"{"a": 4.0, "b": [1e2, 2], "c": {"window": 64.0}, "d": 4.0, "e": 4.5}"#).unwrap();
        assert_eq!(fields.take::<usize>("a"), Some(4));
        assert_eq!(fields.take::<Vec<u32>>("b"), Some(vec![100, 2]));
        assert_eq!(fields.take::<sparkv::KvOptions>("c").unwrap().window, Some(64));
        // Nobody asked for an integer here.
        assert_eq!(fields.take::<Value>("d").unwrap().to_string(), "4.0");
        assert_eq!(fields.take::<usize>("e"), None);
        assert_eq!(param(&fields.finish(|_| None).unwrap_err()), "e");
    }

    #[test]
    fn half_a_character_and_a_byte_order_mark_are_named() {
        for (body, expected) in [
            (&b"\xef\xbb\xbf{}"[..], "it begins with a UTF-8 byte order mark (EF BB BF)"),
            (br#"{"a": "\ud83d"}"#, "without the other half at line 1 column"),
            (b"{\n\"a\": [\"\\ud83d\\u0041\"]}", "without the other half at line 2 column"),
            (br#"{"a": "\ude00 \ud83d"}"#, "without the other half at line 1 column"),
        ] {
            let message = parse(body).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let both = parse(br#"{"a": "\ud83d\ude00"}"#).unwrap();
        assert_eq!(both.get("a").unwrap(), "\u{1f600}");
    }

    #[test]
    fn what_is_not_one_json_object_is_malformed() {
        for bytes in [&b"[]"[..], b"{", b"", b"{} {}", b"\xff", br#"{"a": 1, "a": 2}"#, b"{\"a\": \"\xff\"}"]
        {
            assert!(matches!(parse(bytes), Err(ApiError::Malformed(_))), "{bytes:?}");
        }
    }
}
