//! The loop of the engine's thread: admit, make room, step, deliver.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use sparkv::parallel;
use sparkv_models::{LanguageModel, LogitsRows};

use super::{
    EngineConfig,
    candidate::Candidate,
    job::Job,
    prefill_budget::PrefillBudget,
    prefix::PrefixCache,
    queue::RequestQueue,
    sequence::Sequence,
    stats::Counters,
    token::{Events, TokenEvent},
};
use crate::event::GenerateError;

/// Owns the model and every cache.
#[derive(Debug)]
pub(super) struct Scheduler<M: LanguageModel> {
    model: M,
    config: EngineConfig,
    /// In the order in which they were taken up.
    running: Vec<Sequence<M>>,
    kept: PrefixCache<M>,
    budget: PrefillBudget,
    queue: Arc<RequestQueue>,
    counters: Arc<Counters>,
}

/// What becomes of a job.
enum Begun<M: LanguageModel> {
    Running(Sequence<M>),
    /// There is no memory for it until others have ended.
    Waiting(Job),
}

/// A step to be made.
struct StepPlan {
    members: Vec<Member>,
    /// Whether anybody is being answered.
    answering: bool,
}

/// A sequence that takes part in a step.
struct Member {
    /// Which of those that run.
    index: usize,
    /// By how many rows, summed over layers, it moves on.
    row_layers: usize,
}

impl<M: LanguageModel> Scheduler<M> {
    pub(super) fn new(
        model: M,
        config: EngineConfig,
        queue: Arc<RequestQueue>,
        counters: Arc<Counters>,
    ) -> Self {
        let budget = PrefillBudget::new(config.prompt_balance);
        Self { model, config, running: Vec::new(), kept: PrefixCache::new(), budget, queue, counters }
    }

    /// Works until there is nothing left to do and nothing to wait for.
    pub(super) fn run(mut self) {
        loop {
            self.reap();
            self.admit();
            self.count();
            if !self.running.is_empty() {
                self.make_room();
                self.step();
            } else if !self.queue.wait() {
                break;
            }
        }
    }

    /// Ends what nobody waits for any more.
    fn reap(&mut self) {
        let (now, aborted) = (Instant::now(), self.queue.is_aborted());
        for job in self.queue.take_late(now) {
            tell(&job.events, Err(GenerateError::Deadline));
        }
        for sequence in std::mem::take(&mut self.running) {
            if aborted || sequence.job.is_cancelled() {
                self.finish(sequence);
            } else if sequence.job.is_late(now) {
                tell(&self.finish(sequence), Err(GenerateError::Deadline));
            } else {
                self.running.push(sequence);
            }
        }
    }

    /// Takes up what waits, as far as there is room.
    fn admit(&mut self) {
        while self.running.len() < self.config.max_running.get() {
            let Some(job) = self.queue.take(self.running.is_empty()) else { break };
            if job.is_cancelled() {
                self.queue.leave(&job.events);
            } else if let Some(job) = self.begin(job) {
                self.queue.put_back(job);
                break;
            }
        }
    }

    /// Begins a job, or gives it back if it has to wait.
    fn begin(&mut self, job: Job) -> Option<Job> {
        let events = job.events.clone();
        match self.try_to_begin(job) {
            Ok(Begun::Running(sequence)) => {
                self.counters.looked_up(sequence.cached(), sequence.job.request.prompt.len());
                self.running.push(sequence);
                None
            }
            Ok(Begun::Waiting(job)) => Some(job),
            Err(error) => {
                self.queue.leave(&events);
                tell(&events, Err(error));
                None
            }
        }
    }

    fn try_to_begin(&mut self, job: Job) -> Result<Begun<M>, GenerateError> {
        let (info, tokens) = (self.model.info(), self.config.headroom_tokens);
        let headroom: u64 = self.running.iter().map(|sequence| sequence.job.headroom(info, tokens)).sum();
        let reserved = self.reserved() + headroom;
        let (model, kept) = (&self.model, &mut self.kept);
        let candidate = guarded(|| Candidate::new(model, job, kept))?;
        let mut wanted = candidate.outstanding(&self.model);
        if !self.running.is_empty() {
            wanted += candidate.job().headroom(self.model.info(), tokens);
        }
        if self.may_fit(wanted, reserved) && self.fits(wanted, reserved) {
            return guarded(|| candidate.start(&self.model)).map(Begun::Running);
        }
        if !self.running.is_empty() {
            return Ok(Begun::Waiting(candidate.put_off(&self.model, &mut self.kept)));
        }
        // It was computed to fit into all there is, if it begins with nothing of others.
        if candidate.job().is_restarted() {
            Err(GenerateError::Memory)
        } else {
            self.try_to_begin(candidate.restart())
        }
    }

    /// Bytes that what runs may allocate in the next step, or until its prompt is computed.
    fn reserved(&self) -> u64 {
        self.running.iter().map(|sequence| sequence.outstanding(&self.model)).sum()
    }

    /// Whether `wanted` bytes can be allocated beside the `reserved` ones; forgets what is kept of others until they
    /// can.
    fn fits(&mut self, wanted: u64, reserved: u64) -> bool {
        loop {
            let held = self.model.held_bytes();
            if held.saturating_add(reserved).saturating_add(wanted) <= self.config.kv_memory {
                return true;
            }
            if !self.kept.evict() {
                return false;
            }
        }
    }

    /// Whether [`Self::fits`] may succeed. Not where that would forget in vain what is kept of others, to let somebody
    /// in before those who run have ended.
    fn may_fit(&self, wanted: u64, reserved: u64) -> bool {
        let least = self.model.held_bytes().saturating_sub(self.kept.bytes());
        self.running.is_empty()
            || least.saturating_add(reserved).saturating_add(wanted) <= self.config.kv_memory
    }

    /// Sees to it that the next step finds the memory it may need: the last to have come gives way.
    fn make_room(&mut self) {
        loop {
            if self.fits(0, self.reserved()) {
                return;
            }
            let last = self.running.iter().enumerate().max_by_key(|(_, sequence)| sequence.job.arrived);
            let Some((index, _)) = last else { return };
            let sequence = self.running.remove(index);
            if self.running.is_empty() && sequence.job.is_restarted() {
                tell(&self.finish(sequence), Err(GenerateError::Memory));
                return;
            }
            self.counters.preempted();
            self.queue.put_back(sequence.restart(false));
        }
    }

    /// A token for every sequence that is being answered; prompts move on.
    fn step(&mut self) {
        let plan = self.plan();
        if plan.members.is_empty() {
            return;
        }
        let begun = Instant::now();
        match self.compute(&plan) {
            Ok((logits, prefilled)) => {
                self.budget.note(begun.elapsed(), prefilled, plan.answering);
                self.deliver(&plan, logits);
            }
            Err(error) => self.recover(&plan, error),
        }
    }

    /// Who takes part in the next step: whoever is being answered, with all its rows. Of the others, rows go to the
    /// prompts that are through soonest first, but some always to the one that came first.
    fn plan(&self) -> StepPlan {
        if let Some(index) = self.running.iter().position(|sequence| sequence.job.is_suspect()) {
            let suspect = &self.running[index];
            let answering = !suspect.is_prefilling();
            let row_layers = if answering { suspect.row_layers() } else { self.budget.rows(false) };
            return StepPlan { members: vec![Member { index, row_layers }], answering };
        }
        let answering = self.running.iter().any(|sequence| !sequence.is_prefilling());
        let (mut rows, mut prompts) = (Vec::new(), Vec::new());
        for (index, sequence) in self.running.iter().enumerate() {
            rows.push(if sequence.is_prefilling() { 0 } else { sequence.row_layers() });
            if sequence.is_prefilling() {
                prompts.push(index);
            }
        }
        let mut left = self.budget.rows(answering);
        let mut give = |index: usize, most: usize| {
            let given = (self.running[index].row_layers() - rows[index]).min(most).min(left);
            rows[index] += given;
            left -= given;
        };
        if let Some(&first) = prompts.first() {
            give(first, self.budget.rows(answering).div_ceil(4));
        }
        prompts.sort_by_key(|&index| self.running[index].row_layers());
        prompts.into_iter().for_each(|index| give(index, usize::MAX));
        let members = rows.into_iter().enumerate().filter(|(_, rows)| *rows > 0);
        let members = members.map(|(index, row_layers)| Member { index, row_layers });
        StepPlan { members: members.collect(), answering }
    }

    /// Makes a step. Gives the logits of each member, in their order, and the rows of prompts, summed over layers,
    /// that moved on.
    fn compute(&mut self, plan: &StepPlan) -> Result<(Vec<LogitsRows>, usize), GenerateError> {
        let mut members = plan.members.iter().peekable();
        let spans = self.running.iter_mut().enumerate().filter_map(|(index, sequence)| {
            let member = members.next_if(|member| member.index == index)?;
            sequence.span_step(member.row_layers)
        });
        let mut spans: Vec<_> = spans.collect();
        let model = &self.model;
        let logits = guarded(|| Ok(model.step(&mut spans)?))?;
        let left: Vec<usize> = spans.iter().map(|step| step.row_layers).collect();
        let mut prefilled = 0;
        for (member, left) in plan.members.iter().zip(left) {
            let sequence = &mut self.running[member.index];
            let moved = member.row_layers.saturating_sub(left);
            prefilled += if sequence.is_prefilling() { moved } else { 0 };
            sequence.moved(moved);
        }
        Ok((logits, prefilled))
    }

    /// Draws and sends the tokens that follow from a step's logits.
    fn deliver(&mut self, plan: &StepPlan, logits: Vec<LogitsRows>) {
        let mut drawn: Vec<Option<Result<TokenEvent, GenerateError>>> =
            self.running.iter().map(|_| None).collect();
        let was_prefilling: Vec<bool> = self.running.iter().map(Sequence::is_prefilling).collect();
        let mut members = plan.members.iter().zip(logits).peekable();
        let taking = self.running.iter_mut().enumerate().filter_map(|(index, sequence)| {
            let (_, rows) = members.next_if(|(member, _)| member.index == index)?;
            Some((sequence, rows))
        });
        let model = &self.model;
        let taken = parallel::map_mut(&mut taking.collect::<Vec<_>>(), |_, (sequence, rows)| {
            guarded(|| sequence.take(model, std::mem::take(rows))).transpose()
        });
        for (&Member { index, .. }, taken) in plan.members.iter().zip(taken) {
            drawn[index] = taken;
            let prompt_done = was_prefilling[index] && !self.running[index].is_prefilling();
            if prompt_done {
                // Its rows are through, and its last layer is compressed.
                self.queue.freed();
            }
            if prompt_done && self.can_publish(&self.running[index], self.reserved()) {
                self.running[index].publish_prefix(&self.model, &mut self.kept);
            }
        }
        self.counters
            .generated(drawn.iter().flatten().flatten().filter(|event| event.token.is_some()).count());
        for (sequence, event) in std::mem::take(&mut self.running).into_iter().zip(drawn) {
            match event {
                Some(Ok(event)) if event.finish.is_some() => tell(&self.finish(sequence), Ok(event)),
                Some(Err(error)) => {
                    let events = self.end(sequence.into_job());
                    tell(&events, Err(error));
                }
                event => {
                    if let Some(event) = event {
                        tell(&sequence.job.events, event);
                    }
                    self.running.push(sequence);
                }
            }
        }
    }

    /// After a step that failed, whose caches are useless: whoever was alone in it is at fault. Of several, each
    /// begins again and makes its next step alone, so that the one at fault is found and the others lose time only.
    fn recover(&mut self, plan: &StepPlan, error: GenerateError) {
        let mut members = plan.members.iter().map(|member| member.index).peekable();
        let mut failed = Vec::new();
        let running = std::mem::take(&mut self.running);
        for (index, sequence) in running.into_iter().enumerate() {
            if members.next_if_eq(&index).is_some() {
                failed.push(sequence);
            } else {
                self.running.push(sequence);
            }
        }
        if failed.len() == 1 {
            if let Some(sequence) = failed.pop() {
                tell(&self.end(sequence.into_job()), Err(error));
            }
            return;
        }
        tracing::warn!(%error, sequences = failed.len(), "a step failed; each of its sequences begins again");
        for sequence in failed.into_iter().rev() {
            self.queue.put_back(sequence.restart(true));
        }
        self.queue.freed();
    }

    /// Ends a sequence, and keeps what may be of use. Whoever is told of its end afterwards finds its memory freed
    /// and its place empty.
    fn finish(&mut self, sequence: Sequence<M>) -> Events {
        let events = if self.can_publish(&sequence, self.reserved()) {
            sequence.finish(&self.model, &mut self.kept)
        } else {
            sequence.into_job().events
        };
        self.queue.leave(&events);
        events
    }

    /// Whether something of a sequence is to be kept for others, and there is memory for that beside the `reserved` bytes.
    fn can_publish(&self, sequence: &Sequence<M>, reserved: u64) -> bool {
        let cost = sequence.publish_bytes(&self.model);
        self.config.prefix_cache
            && sequence.is_publishable()
            && self.model.held_bytes().saturating_add(reserved).saturating_add(cost) <= self.config.kv_memory
    }

    fn end(&self, job: Job) -> Events {
        self.queue.leave(&job.events);
        job.events
    }

    /// Tells what is held.
    fn count(&self) {
        let (mut active, mut dense) = (0, 0);
        for sequence in &self.running {
            let usage = sequence.usage(&self.model);
            active += usage.bytes;
            dense += usage.dense_bytes;
        }
        self.counters.held(self.model.held_bytes(), active, dense);
    }
}

impl<M: LanguageModel> Drop for Scheduler<M> {
    /// However the thread ends, nobody is left waiting for it.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// A client that went away is noticed before its sequence's next step; nothing is to be done here.
fn tell(events: &Events, event: Result<TokenEvent, GenerateError>) {
    let _ = events.send(event);
}

/// Does work that may panic. What a panic may have left half done is the sequences' own state, which is dropped; the
/// model is only read.
fn guarded<T>(work: impl FnOnce() -> Result<T, GenerateError>) -> Result<T, GenerateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"no message")).to_owned(),
        };
        tracing::error!(message, "a computation panicked");
        Err(GenerateError::Panicked(message))
    })
}
