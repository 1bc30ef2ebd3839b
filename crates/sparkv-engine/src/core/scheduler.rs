//! The loop of the engine's thread: admit, decode, finish.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use sparkv_models::LanguageModel;

use super::{
    line::{Line, MAX_RUNNING},
    sequence::{Events, Job, Sequence},
    stream::Token,
};
use crate::event::GenerateError;

/// A sequence and where its tokens go. In this order: the cache is freed before the client hears of the end.
#[derive(Debug)]
struct Running<C> {
    sequence: Sequence<C>,
    events: Events,
}

/// Owns the model and every cache.
#[derive(Debug)]
pub(super) struct Scheduler<M: LanguageModel> {
    model: M,
    running: Vec<Running<M::Cache>>,
    line: Arc<Line>,
}

impl<M: LanguageModel> Scheduler<M> {
    pub(super) fn new(model: M, line: Arc<Line>) -> Self {
        Self { model, running: Vec::new(), line }
    }

    /// Works until there is nothing left to do and nothing to wait for.
    pub(super) fn run(mut self) {
        while self.admit() {
            self.step();
        }
    }

    /// Takes up what waits, as far as there is room; waits if nothing runs. False if there is nothing to do.
    fn admit(&mut self) -> bool {
        while self.running.len() < MAX_RUNNING {
            let job = if self.running.is_empty() { self.line.wait() } else { self.line.poll() };
            let Some(job) = job else { break };
            self.begin(job);
        }
        !self.running.is_empty()
    }

    fn begin(&mut self, job: Job) {
        let Job { work, events, arrived } = job;
        match guarded(|| Sequence::start(&self.model, work, &events, arrived)) {
            Ok(Some((sequence, token))) => self.deliver(Running { sequence, events }, token),
            Ok(None) => self.line.leave(&events),
            Err(error) => {
                self.line.leave(&events);
                tell(&events, Err(error));
            }
        }
    }

    /// One token for every sequence.
    fn step(&mut self) {
        for mut running in std::mem::take(&mut self.running) {
            if running.events.is_closed() {
                self.end(running);
                continue;
            }
            match guarded(|| running.sequence.decode(&self.model)) {
                Ok(token) => self.deliver(running, token),
                Err(error) => tell(&self.end(running), Err(error)),
            }
        }
    }

    fn deliver(&mut self, running: Running<M::Cache>, token: Token) {
        if token.finish.is_some() {
            tell(&self.end(running), Ok(token));
        } else {
            tell(&running.events, Ok(token));
            self.running.push(running);
        }
    }

    /// Frees a sequence. Whoever is told of its end afterwards finds its memory freed and its place empty.
    fn end(&self, running: Running<M::Cache>) -> Events {
        let Running { sequence, events } = running;
        drop(sequence);
        self.line.leave(&events);
        events
    }
}

impl<M: LanguageModel> Drop for Scheduler<M> {
    /// However the thread ends, nobody is left waiting for it.
    fn drop(&mut self) {
        self.line.close();
    }
}

/// A client that went away is noticed before its sequence's next step; nothing is to be done here.
fn tell(events: &Events, event: Result<Token, GenerateError>) {
    let _ = events.send(event);
}

/// Does one sequence's work, so that a panic in it ends that sequence only. What the panic may have left half
/// done is the sequence's own state, which is dropped; the model is only read.
fn guarded<T>(work: impl FnOnce() -> Result<T, GenerateError>) -> Result<T, GenerateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"no message")).to_owned(),
        };
        tracing::error!(message, "a sequence's computation panicked");
        Err(GenerateError::Panicked(message))
    })
}
