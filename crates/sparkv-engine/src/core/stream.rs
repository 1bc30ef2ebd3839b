//! The tokens of one request, as they come.
use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{queue::RequestQueue, token::TokenEvent};
use crate::event::GenerateError;

/// The events of one request. Ends after the event that has [`TokenEvent::finish`] set, or an error. Dropping it
/// cancels the request: at once if it waits, within a chunk of its prompt or a token if it runs.
#[derive(Debug)]
pub struct TokenStream {
    tokens: UnboundedReceiver<Result<TokenEvent, GenerateError>>,
    queue: Arc<RequestQueue>,
    ended: bool,
}

impl TokenStream {
    pub(super) fn new(
        tokens: UnboundedReceiver<Result<TokenEvent, GenerateError>>,
        queue: Arc<RequestQueue>,
    ) -> Self {
        Self { tokens, queue, ended: false }
    }

    /// The next event; `None` after the last.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<TokenEvent, GenerateError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.tokens.poll_recv(context).map(|token| Some(self.took(token)))
    }

    /// The next event; `None` after the last. For threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Result<TokenEvent, GenerateError>> {
        if self.ended {
            return None;
        }
        let token = self.tokens.blocking_recv();
        Some(self.took(token))
    }

    fn took(
        &mut self,
        token: Option<Result<TokenEvent, GenerateError>>,
    ) -> Result<TokenEvent, GenerateError> {
        // The engine closes the channel of a request that has not ended only when its thread is gone.
        let token = token.unwrap_or(Err(GenerateError::Stopped));
        self.ended = !matches!(token, Ok(TokenEvent { finish: None, .. }));
        if self.ended {
            // After an abort the sequence may still run; it is given up as if the client had gone.
            self.tokens.close();
        }
        token
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.tokens.close();
        // One that runs is noticed by the scheduler; one that waits gives up its place now.
        self.queue.forget_cancelled();
    }
}
