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
pub(crate) struct ObservedEvents {
    events: EventStream,
    metrics: Metrics,
    entry: Entry,
    /// From the request's arrival to its place in line.
    encode_seconds: f64,
    /// `decode_seconds` at the last event that had tokens; `None` before the first.
    told: Option<f64>,
    ended: bool,
}

impl ObservedEvents {
    /// To be made by the task that handles the request: its entry is the one that the events are noted in.
    pub(crate) fn new(events: EventStream, metrics: Metrics, encode_seconds: f64) -> Self {
        Self { events, metrics, entry: Entry::current(), encode_seconds, told: None, ended: false }
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.events.prompt_tokens()
    }

    fn note(&mut self, event: &Result<Event, GenerateError>) {
        match event {
            Ok(Event::Text { token_ids, .. }) => self.note_tokens(token_ids.len()),
            Ok(Event::Done { reason, usage, timings, .. }) => {
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

    fn note_tokens(&mut self, mut tokens: usize) {
        if tokens == 0 {
            return;
        }
        let timings = self.events.timings();
        if self.told.is_none() {
            tokens -= 1;
            self.metrics.begun(self.events.prompt_tokens(), self.encode_seconds, timings);
            let first = self.encode_seconds + timings.queue_seconds + timings.prefill_seconds;
            self.entry.begun(self.events.prompt_tokens(), timings.queue_seconds, first);
        }
        self.metrics.continued(tokens, timings.decode_seconds - self.told.unwrap_or(0.0));
        self.told = Some(timings.decode_seconds);
    }
}

impl Stream for ObservedEvents {
    type Item = Result<Event, GenerateError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(Pin::new(&mut self.events).poll_next(context));
        if let Some(event) = &event {
            self.note(event);
        }
        Poll::Ready(event)
    }
}

impl Drop for ObservedEvents {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.cancelled();
        }
    }
}
