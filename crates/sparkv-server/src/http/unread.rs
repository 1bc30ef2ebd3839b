//! Bodies of requests that are answered before they were read. Over HTTP/2 the stream of such a request is reset, and
//! some clients then lose the answer, so what little is left is read first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Bytes that are read for the client's sake.
const MOST: usize = 64 << 10;

/// How long they may take to come.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that comes back if it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

/// Where it comes back to.
pub(super) struct Returned(oneshot::Receiver<Incoming>);

/// The body, and where it comes back to if it is not read.
pub(super) fn lend(body: Incoming) -> (Body, Returned) {
    let (back, returned) = oneshot::channel();
    (Body::new(Lent { body: Some(body), back: Some(back) }), Returned(returned))
}

impl Returned {
    /// Reads what is left of a body that nobody wants any more.
    pub(super) async fn read_out(mut self) {
        let Ok(mut body) = self.0.try_recv() else { return };
        let reading = async {
            let mut left = MOST;
            while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(bytes) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        // Whoever sends more, or slower, has its stream reset.
        let _ = timeout(PATIENCE, reading).await;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Fails where nobody waits for it, which is as well.
            let _ = back.send(body);
        }
    }
}
