//! The events of a request, watched as they pass: for metrics, and for the log's line at its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use sparkv_engine::{Event, EventStream, GenerateError};

use crate::access_log::Entry;
use crate::error::ApiError;
use crate::generation::ids::finish_reason;
use crate::metrics::Metrics;

/// An [`EventStream`] that tells the metrics, and the entry of the request it belongs to, what it is asked for.
#[derive(Debug)]
pub(crate) struct InstrumentedEvents {
    events: EventStream,
    metrics: Metrics,
    entry: Entry,
    /// From the request's arrival to its place in the queue.
    encode_seconds: f64,
    /// `decode_seconds` at the last event that was noted; `None` before the first.
    noted_decode_seconds: Option<f64>,
    ended: bool,
}

impl InstrumentedEvents {
    /// To be made by the task that handles the request: its entry is the one that the events are noted in.
    pub(crate) fn new(events: EventStream, metrics: Metrics, encode_seconds: f64) -> Self {
        Self {
            events,
            metrics,
            entry: Entry::current(),
            encode_seconds,
            noted_decode_seconds: None,
            ended: false,
        }
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.events.prompt_tokens()
    }

    fn note(&mut self, event: &Result<Event, GenerateError>) {
        match event {
            Ok(Event::Prompt(_)) => {}
            Ok(Event::Text { token_ids, .. }) => self.note_tokens(token_ids.len()),
            Ok(Event::Done { reason, usage, timings, .. }) => {
                // Where there are no tokens, the prompt was computed all the same.
                self.note_begun();
                let reason = finish_reason(*reason);
                self.ended = true;
                self.metrics.finished(reason, usage, self.encode_seconds, *timings);
                self.entry.finished(reason, usage);
            }
            Err(error) => {
                self.ended = true;
                self.entry.failed(ApiError::code_of(error));
            }
        }
    }

    fn note_tokens(&mut self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        let is_first = self.note_begun();
        let decode_seconds = self.events.timings().decode_seconds;
        let since = decode_seconds - self.noted_decode_seconds.unwrap_or(0.0);
        self.metrics.continued(tokens - usize::from(is_first), since);
        self.noted_decode_seconds = Some(decode_seconds);
    }

    /// Notes that the prompt was computed; false if that was noted before.
    fn note_begun(&mut self) -> bool {
        if self.noted_decode_seconds.is_some() {
            return false;
        }
        let (prompt_tokens, timings) = (self.events.prompt_tokens(), self.events.timings());
        self.metrics.begun(prompt_tokens, self.encode_seconds, timings);
        let first = self.encode_seconds + timings.queue_seconds + timings.prefill_seconds;
        self.entry.begun(prompt_tokens, timings.queue_seconds, first);
        self.noted_decode_seconds = Some(0.0);
        true
    }
}

impl Stream for InstrumentedEvents {
    type Item = Result<Event, GenerateError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(Pin::new(&mut self.events).poll_next(context));
        if let Some(event) = &event {
            self.note(event);
        }
        Poll::Ready(event)
    }
}

impl Drop for InstrumentedEvents {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.cancelled();
        }
    }
}
