//! From the engine's events to a response. Streamed or whole, the same events are read, so the text is the same.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;
use sparkv_engine::{Event, FinishReason, GenerateError};

use crate::common::types::UsageBody;
use crate::error::ApiError;
use crate::observed::Observed;

/// How often a comment is sent while there is no text, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// As server-sent events.
    Stream {
        /// With a last chunk that reports the usage.
        include_usage: bool,
    },
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    pub(crate) usage: UsageBody,
}

/// How an endpoint writes its answers.
pub(crate) trait Reply: Send + 'static {
    /// Body of a whole answer.
    type Body: Serialize;
    /// One streamed piece.
    type Chunk: Serialize;

    /// The whole answer.
    fn body(self, answer: Answer) -> Self::Body;
    /// What a stream begins with, if anything.
    fn opening(&self) -> Option<Self::Chunk>;
    /// More text.
    fn text(&self, text: String) -> Self::Chunk;
    /// The end of the text.
    fn finish(&self, reason: FinishReason) -> Self::Chunk;
    /// What it cost, if the client asked for that.
    fn usage(&self, usage: UsageBody) -> Option<Self::Chunk>;
}

/// Answers with what the engine generates.
///
/// # Errors
/// If generating fails, and nothing was sent; once a stream runs, errors are part of it.
pub(crate) async fn respond<R: Reply>(
    events: Observed,
    reply: R,
    delivery: Delivery,
) -> Result<Response, ApiError> {
    match delivery {
        Delivery::Whole => Ok(Json(reply.body(collect(events).await?)).into_response()),
        Delivery::Stream { .. } => {
            let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
            Ok(Sse::new(server_sent(events, reply)).keep_alive(keep_alive).into_response())
        }
    }
}

/// Waits for the last event.
async fn collect(mut events: Observed) -> Result<Answer, ApiError> {
    let mut text = String::new();
    loop {
        match events.next().await.unwrap_or(Err(GenerateError::Stopped))? {
            Event::Text { text: more, .. } => text.push_str(&more),
            Event::Done { reason, usage, .. } => return Ok(Answer { text, reason, usage: usage.into() }),
        }
    }
}

/// The chunks of an answer as they arise, or an error, and `[DONE]`.
fn server_sent<R: Reply>(
    events: Observed,
    reply: R,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static {
    let opening = stream::iter(reply.opening().as_ref().map(data));
    let rest = stream::unfold(Some((events, reply)), |running| async {
        let (mut events, reply) = running?;
        Some(match events.next().await.unwrap_or(Err(GenerateError::Stopped)) {
            Ok(Event::Text { text, .. }) if text.is_empty() => (Vec::new(), Some((events, reply))),
            Ok(Event::Text { text, .. }) => (vec![data(&reply.text(text))], Some((events, reply))),
            Ok(Event::Done { reason, usage, .. }) => {
                let usage = reply.usage(usage.into());
                let last = std::iter::once(reply.finish(reason)).chain(usage);
                (last.map(|chunk| data(&chunk)).chain([done()]).collect(), None)
            }
            Err(error) => {
                let error = ApiError::from(error);
                error.log();
                (vec![data(&error.body()), done()], None)
            }
        })
    });
    opening.chain(rest.flat_map(stream::iter)).map(Ok)
}

/// A chunk as an event; an error event if it cannot be written as JSON.
fn data(chunk: &impl Serialize) -> sse::Event {
    sse::Event::default().json_data(chunk).unwrap_or_else(|error| {
        sse::Event::default().data(ApiError::Internal(error.to_string()).body().to_string())
    })
}

fn done() -> sse::Event {
    sse::Event::default().data("[DONE]")
}
