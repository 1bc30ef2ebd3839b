//! What goes on in a connection, for the limits that hyper does not have: HTTP/2 knows neither how long a connection
//! may be idle, nor whether a client that opens its socket opens the window of an answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Version;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A client gets this long to take note that the server leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// What goes on in a connection.
#[derive(Debug)]
pub(super) struct Activity {
    /// How long it may be idle.
    head_timeout: Duration,
    /// How long a piece of an answer may wait to be sent.
    write_timeout: Duration,
    state: Mutex<State>,
    /// Woken by the first request.
    begun: Notify,
}

#[derive(Debug)]
struct State {
    /// That of the first request; `None` before there was one.
    version: Option<Version>,
    /// Requests that run, and since when each one's answer has a piece that is not sent.
    running: HashMap<u64, Option<Instant>>,
    /// Requests so far.
    count: u64,
    /// When the last request ended, the connection was opened, or it was told to end.
    idle_since: Instant,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, before this time.
    Look(Instant),
    /// It has been idle for too long: it ends in order.
    Leave,
    /// It ends at once, for this reason.
    Cut(&'static str),
}

impl Next {
    /// The same, looked at when `time` comes, if that is yet to come and sooner.
    pub(super) fn before(self, time: Instant) -> Self {
        match self {
            Self::Look(at) if time > Instant::now() => Self::Look(at.min(time)),
            other => other,
        }
    }
}

impl Activity {
    /// That of a connection opened then, which may be idle for `head_timeout`; a piece of an answer may wait for
    /// `write_timeout`.
    pub(super) fn new(opened: Instant, head_timeout: Duration, write_timeout: Duration) -> Self {
        let state = State { version: None, running: HashMap::new(), count: 0, idle_since: opened };
        Self { head_timeout, write_timeout, state: Mutex::new(state), begun: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; it runs until what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Running {
        let mut state = self.state();
        if state.version.replace(version).is_none() {
            self.begun.notify_one();
        }
        state.count += 1;
        let id = state.count;
        state.running.insert(id, None);
        Running { activity: Arc::clone(self), id }
    }

    /// Ends when the first request comes.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Whether there was a request.
    pub(super) fn has_begun(&self) -> bool {
        self.state().version.is_some()
    }

    /// Whether HTTP/2 is spoken, as far as is known.
    pub(super) fn is_http2(&self) -> bool {
        self.state().version == Some(Version::HTTP_2)
    }

    /// The connection is told to end.
    pub(super) fn leave(&self) {
        self.state().idle_since = Instant::now();
    }

    /// What is to be done now.
    pub(super) fn next(&self, is_leaving: bool) -> Next {
        let (state, now) = (self.state(), Instant::now());
        let is_http2 = state.version == Some(Version::HTTP_2);
        if state.version.is_some() && !is_http2 {
            // hyper sees to it.
            return Next::Look(now + self.head_timeout);
        }
        if !state.running.is_empty() {
            let unsent = state.running.values().flatten().min().map(|since| *since + self.write_timeout);
            let later = now + self.head_timeout.min(self.write_timeout);
            return match unsent {
                Some(due) if due <= now => Next::Cut("the client takes nothing of its answer"),
                due => Next::Look(due.map_or(later, |due| due.min(later))),
            };
        }
        let due = state.idle_since + if is_leaving { FAREWELL } else { self.head_timeout };
        match (due <= now, is_leaving, is_http2) {
            (false, _, _) => Next::Look(due),
            (true, false, true) => Next::Leave,
            (true, true, _) => Next::Cut("it does not end by itself"),
            (true, false, false) => Next::Cut("no request came in time"),
        }
    }
}

/// A request that runs.
#[derive(Debug)]
pub(super) struct Running {
    activity: Arc<Activity>,
    id: u64,
}

impl Running {
    /// Watches whether its answer is sent; it runs until then.
    pub(super) fn watch(self, body: Body) -> Body {
        Body::new(Watched { body, running: self })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.running.remove(&self.id);
        state.idle_since = Instant::now();
    }
}

/// An answer's body. Who wants a piece has sent the one before.
struct Watched {
    body: Body,
    running: Running,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let has_piece = matches!(polled, Poll::Ready(Some(Ok(_))));
        let Running { activity, id } = &self.running;
        activity.state().running.insert(*id, has_piece.then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
