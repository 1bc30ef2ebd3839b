//! Where requests wait for the model.
//!
//! The lock guards the queue alone and is never held while the model computes: whoever asks, joins or leaves
//! waits for a few list operations at most.
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Load, job::Job, token::Events};
use crate::{event::GenerateError, request::RequestError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes requests.
    Open,
    /// Finishes those it took.
    Draining,
    /// Ends those it took.
    Aborting,
    /// The thread is gone.
    Dead,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Job>,
    /// Where the tokens of each running sequence go.
    running: Vec<Events>,
    /// Whether the first of the queue waits for memory.
    blocked: bool,
    /// Whether it may find more than when it was last tried.
    freed: bool,
    phase: Phase,
}

/// The bounded queue between the handles and the engine's thread.
#[derive(Debug)]
pub(super) struct RequestQueue {
    state: Mutex<State>,
    changed: Condvar,
    max_queue: usize,
    max_running: usize,
}

impl RequestQueue {
    pub(super) fn new(max_queue: usize, max_running: usize) -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let state = State { waiting, running, blocked: false, freed: false, phase: Phase::Open };
        Self { state: Mutex::new(state), changed: Condvar::new(), max_queue, max_running }
    }

    /// Puts jobs at the end of the queue, all of them or none.
    pub(super) fn join(&self, jobs: Vec<Job>) -> Result<(), RequestError> {
        let mut state = self.lock();
        state.check_room(jobs.len(), self.max_queue, self.max_running)?;
        state.waiting.extend(jobs);
        self.changed.notify_all();
        Ok(())
    }

    /// Whether so many jobs could join.
    pub(super) fn check_room(&self, jobs: usize) -> Result<(), RequestError> {
        self.lock().check_room(jobs, self.max_queue, self.max_running)
    }

    /// Waits for a job; false once there is none to wait for.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() {
                return true;
            }
            if state.phase != Phase::Open {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the first job, if there is one; it counts as running from now on. One that waits for memory is left
    /// alone until some may have been freed, or nothing runs any more (`idle`): to try it takes a cache.
    pub(super) fn take(&self, idle: bool) -> Option<Job> {
        let mut state = self.lock();
        if state.blocked && !state.freed && !idle {
            return None;
        }
        state.blocked = false;
        let job = state.waiting.pop_front()?;
        state.running.push(job.events.clone());
        Some(job)
    }

    /// Takes a job back that counted as running, as the first of the queue. There is no memory for it, for now.
    pub(super) fn put_back(&self, job: Job) {
        let mut state = self.lock();
        state.running.retain(|running| !running.same_channel(&job.events));
        if state.phase == Phase::Aborting {
            return;
        }
        (state.blocked, state.freed) = (true, false);
        state.waiting.push_front(job);
    }

    /// Memory may have been freed for the first of the queue.
    pub(super) fn freed(&self) {
        self.lock().freed = true;
    }

    /// Takes out the jobs whose time is up.
    pub(super) fn take_late(&self, now: Instant) -> Vec<Job> {
        let mut state = self.lock();
        if !state.waiting.iter().any(|job| job.is_late(now)) {
            return Vec::new();
        }
        let (late, waiting): (Vec<_>, _) = state.waiting.drain(..).partition(|job| job.is_late(now));
        state.waiting = waiting.into();
        state.freed = true;
        late
    }

    /// The job that reports to `events` has ended, which counted as running.
    pub(super) fn leave(&self, events: &Events) {
        let mut state = self.lock();
        state.running.retain(|running| !running.same_channel(events));
        state.freed = true;
    }

    /// Removes the jobs that nobody waits for any more.
    pub(super) fn forget_cancelled(&self) {
        let mut state = self.lock();
        state.waiting.retain(|job| !job.is_cancelled());
        // Another may be the first now.
        state.freed = true;
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load { running: state.running.len(), waiting: state.waiting.len() }
    }

    /// Whether what runs is to end now.
    pub(super) fn is_aborted(&self) -> bool {
        self.lock().phase == Phase::Aborting
    }

    pub(super) fn is_alive(&self) -> bool {
        self.lock().phase != Phase::Dead
    }

    /// Takes no more jobs.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        self.changed.notify_all();
    }

    /// Takes no more jobs, and tells those taken that they end. A client learns it now, whatever the model is
    /// doing; its sequence is given up like any other that nobody listens to.
    pub(super) fn abort(&self) {
        self.drain();
        let mut state = self.lock();
        if state.phase == Phase::Draining {
            state.phase = Phase::Aborting;
        }
        state.waiting.clear();
        for events in &state.running {
            // A client that went away needs no telling.
            let _ = events.send(Err(GenerateError::Stopped));
        }
    }

    /// The thread is gone: ends every job that waits.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Dead;
        state.running.clear();
        state.waiting.clear();
    }

    /// No operation above leaves the state half changed, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_room(&self, jobs: usize, max_queue: usize, max_running: usize) -> Result<(), RequestError> {
        if self.phase != Phase::Open {
            return Err(RequestError::Stopped);
        }
        // Free places to run count too: the thread may not have taken up yet what it is free for.
        let free = if self.blocked { 0 } else { max_running.saturating_sub(self.running.len()) };
        if self.waiting.len().saturating_add(jobs) > max_queue.saturating_add(free) {
            return Err(RequestError::QueueFull { max_queue });
        }
        Ok(())
    }
}
