//! How answers are written to the connection as they arise: as server-sent events, or as lines of JSON.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use futures::stream::{Stream, StreamExt};
use serde::Serialize;
use serde_json::json;

use crate::error::ApiError;

/// How often a comment is sent while there is no text, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A piece of a streamed answer.
pub(crate) trait Piece: Sized + Send + 'static {
    /// The response that is made of pieces, sent as they come.
    fn respond(pieces: impl Stream<Item = Self> + Send + 'static) -> Response;
}

impl Piece for sse::Event {
    fn respond(pieces: impl Stream<Item = Self> + Send + 'static) -> Response {
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Sse::new(pieces.map(Ok::<_, Infallible>)).keep_alive(keep_alive).into_response()
    }
}

/// A line that is JSON.
#[derive(Debug)]
pub(crate) struct JsonLine(Bytes);

impl JsonLine {
    /// `value` as a line; an error if it cannot be written as JSON.
    pub(crate) fn new(value: &impl Serialize) -> Self {
        let line = serde_json::to_string(value);
        let mut line =
            line.unwrap_or_else(|error| json!({ "error": logged(&error).to_string() }).to_string());
        line.push('\n');
        Self(line.into())
    }
}

impl Piece for JsonLine {
    fn respond(pieces: impl Stream<Item = Self> + Send + 'static) -> Response {
        let body = Body::from_stream(pieces.map(|Self(line)| Ok::<_, Infallible>(line)));
        ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
    }
}

/// A chunk as an event; an error event if it cannot be written as JSON.
pub(crate) fn data(chunk: &impl Serialize) -> sse::Event {
    write(sse::Event::default(), chunk)
}

/// The same, with a name.
pub(crate) fn named(name: &str, chunk: &impl Serialize) -> sse::Event {
    write(sse::Event::default().event(name), chunk)
}

fn write(event: sse::Event, chunk: &impl Serialize) -> sse::Event {
    event
        .json_data(chunk)
        .unwrap_or_else(|error| sse::Event::default().json_data(logged(&error).body()).unwrap_or_default())
}

/// What an OpenAI stream ends with.
pub(crate) fn done() -> sse::Event {
    sse::Event::default().data("[DONE]")
}

/// What an OpenAI stream ends with that failed.
pub(crate) fn failed(error: &ApiError) -> Vec<sse::Event> {
    vec![data(&error.body()), done()]
}

/// That something cannot be written.
fn logged(error: &dyn std::fmt::Display) -> ApiError {
    let error = ApiError::Internal(error.to_string());
    error.log();
    error
}
