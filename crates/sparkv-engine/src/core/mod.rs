//! Tokens only: the thread that owns the model, and the handle on it.
//!
//! One subject per file: `queue` is where requests wait, `job` is a request and how far it is, `candidate` one that may
//! start if there is memory, `sequence` one at work, `scheduler` is the loop that decides who takes part in the next
//! step, `prefill_budget` how much of prompts does, `memory` computes what a request needs, `prefix` keeps what need not
//! be computed again. None of them knows text.
//!
//! Every step is one ragged batch of spans: the next token of every sequence that is being answered, and pieces of the
//! prompts of the others. Memory is promised before it is used: a request starts when what it needs until its
//! first token is free, beside what the others need next. If answers outgrow the memory, the last to have come
//! goes back to the front of the queue and later begins again, from the tokens it had. A step that fails ends the sequence that was
//! alone in it; if there were several, each begins again and goes on alone for a step.
mod candidate;
mod constraint;
mod job;
mod memory;
mod prefill_budget;
mod prefix;
mod queue;
mod scheduler;
mod sequence;
mod stats;
mod stream;
mod token;

use std::{
    num::NonZeroUsize,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use sparkv::{KvChoice, KvSettings, Presets};
use sparkv_models::{LanguageModel, ModelInfo};
use tokio::sync::mpsc;

use crate::{
    request::{PromptLength, RequestError},
    sampler::{Sampler, SamplingParams, check_alternatives},
};
use job::{CheckedRequest, Job};
use memory::Need;
use queue::RequestQueue;
use scheduler::Scheduler;
use stats::Counters;

pub use constraint::{Constraint, Grammar};
pub use stats::Stats;
pub use stream::TokenStream;
pub use token::{Token, TokenEvent};

/// Bounds of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineConfig {
    /// Positions of prompt and answer together, if fewer than the model has.
    pub max_context: Option<NonZeroUsize>,
    /// The most requests that may wait, those that run not counted.
    pub max_queue: NonZeroUsize,
    /// The most requests that run at a time.
    pub max_running: NonZeroUsize,
    /// Bytes that caches, and tokens on their way through the layers, may hold together.
    pub kv_memory: u64,
    /// Tokens that whoever runs is to find memory for before another is taken up: with too few, those who came last
    /// soon have to give way.
    pub headroom_tokens: usize,
    /// Whether what was computed is kept, as far as memory allows, for requests that begin with the same tokens.
    pub prefix_cache: bool,
    /// How long a step may work on prompts, in units of the time that a token takes those who are being answered.
    pub prompt_balance: f64,
}

impl Default for EngineConfig {
    /// 64 that wait, 64 that run, any memory.
    fn default() -> Self {
        Self {
            max_context: None,
            max_queue: NonZeroUsize::MIN.saturating_add(63),
            max_running: NonZeroUsize::MIN.saturating_add(63),
            kv_memory: u64::MAX,
            headroom_tokens: 64,
            prefix_cache: true,
            prompt_balance: PROMPT_BALANCE,
        }
    }
}

/// A gap between tokens is then a little over three times what it is without prompts, and a prompt takes up to 45 %
/// longer than alone.
pub const PROMPT_BALANCE: f64 = 2.2;

/// How busy an engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests the model works on.
    pub running: usize,
    /// Requests that wait for it.
    pub waiting: usize,
}

/// A request to continue tokens.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// Report the log probability of each token of the prompt but the first, and of this many of the likeliest in its
    /// place; nothing if `None`. All of the prompt is computed then, whatever was kept of others.
    pub prompt_logprobs: Option<usize>,
    /// The most tokens to generate; what fits in the context if `None`. With 0, the prompt is computed and kept for
    /// others.
    pub max_tokens: Option<usize>,
    /// Where there is no memory for `max_tokens`, generate as many as there is for, instead of refusing.
    pub fit_memory: bool,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Tokens that end the answer, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// What the answer may say; anything if `None`.
    pub grammar: Option<Arc<dyn Grammar>>,
    /// What the KV cache may cost.
    pub kv: KvChoice,
    /// Only requests with the same salt share what is kept of their prompts; those without one, with each other.
    pub cache_salt: Option<String>,
    /// The first tokens of the prompt that are a system prompt and definitions of tools.
    pub system_tokens: usize,
    /// How long it may take, from now on.
    pub timeout: Option<Duration>,
}

impl TokenRequest {
    /// A request with every option at its default: greedy, all that fits, the exact cache.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            prompt_logprobs: None,
            max_tokens: None,
            fit_memory: false,
            sampling: SamplingParams::default(),
            ignore_eos: false,
            stop_tokens: Vec::new(),
            grammar: None,
            kv: KvChoice::default(),
            cache_salt: None,
            system_tokens: 0,
            timeout: None,
        }
    }
}

/// A handle on the thread that owns a model. Dropping it lets the thread finish what it took, and end.
#[derive(Debug)]
pub struct TokenEngine {
    queue: Arc<RequestQueue>,
    info: ModelInfo,
    config: EngineConfig,
    /// What to propose where memory does not suffice.
    presets: RwLock<Presets>,
    counters: Arc<Counters>,
}

impl TokenEngine {
    /// Starts the thread that owns `model`. Requests that need too much memory are told which of `presets` would do.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<M: LanguageModel + 'static>(
        model: M,
        config: EngineConfig,
        presets: Presets,
    ) -> std::io::Result<Self> {
        let mut info = model.info().clone();
        let most = config.max_context.map_or(usize::MAX, NonZeroUsize::get);
        info.context_length = info.context_length.min(most);
        let queue = Arc::new(RequestQueue::new(config.max_queue.get(), config.max_running.get()));
        let counters = Arc::new(Counters::default());
        let scheduler = Scheduler::new(model, config, Arc::clone(&queue), Arc::clone(&counters));
        std::thread::Builder::new().name("sparkv-engine".to_owned()).spawn(move || scheduler.run())?;
        Ok(Self { queue, info, config, presets: RwLock::new(presets), counters })
    }

    /// Checks a request and puts it in the queue. Does not wait.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn submit(&self, request: TokenRequest) -> Result<TokenStream, RequestError> {
        let mut only = self.submit_all(vec![request])?;
        only.pop().ok_or(RequestError::Stopped)
    }

    /// The same for several requests, which enter the queue together or not at all.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn submit_all(&self, requests: Vec<TokenRequest>) -> Result<Vec<TokenStream>, RequestError> {
        let join = |request| {
            let (events, tokens) = mpsc::unbounded_channel();
            let stream = TokenStream::new(tokens, Arc::clone(&self.queue));
            Ok((Job::new(self.check(request)?, events), stream))
        };
        let joined = requests.into_iter().map(join).collect::<Result<Vec<_>, RequestError>>()?;
        let (jobs, streams) = joined.into_iter().unzip();
        self.queue.join(jobs)?;
        Ok(streams)
    }

    /// Whether so many requests that came now would be taken, as far as that depends on others.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::Stopped`].
    pub fn check_room(&self, requests: usize) -> Result<(), RequestError> {
        self.queue.check_room(requests)
    }

    /// Everything about a request that can be known before it runs.
    fn check(&self, request: TokenRequest) -> Result<CheckedRequest, RequestError> {
        let TokenRequest { prompt, prompt_logprobs, max_tokens, fit_memory, sampling, cache_salt, .. } =
            request;
        let biased = sampling.logit_bias.keys().copied().max();
        let min_tokens = sampling.min_tokens;
        let mut sampler = Sampler::new(sampling)?;
        if prompt.is_empty() {
            return Err(RequestError::invalid("prompt", "must hold at least one token"));
        }
        let check = |param: &'static str, tokens: &[u32]| {
            self.info.check_tokens(tokens).map_err(|error| RequestError::invalid(param, error.to_string()))
        };
        check_alternatives("prompt_logprobs", prompt_logprobs)?;
        check("prompt", &prompt)?;
        check("logit_bias", biased.as_slice())?;
        sampler.read_prompt(&prompt);
        let wanted = self.tokens_to_generate(PromptLength::Exactly(prompt.len()), max_tokens)?;
        let kv = request.kv.settings(&self.info.kv_shape, prompt.len(), wanted)?;
        let kv = kv.with_system_tokens(request.system_tokens);
        let exactly = max_tokens.is_some() && !fit_memory;
        let max_tokens = self.tokens_within_memory(&kv, prompt.len(), wanted, exactly)?;
        if max_tokens < min_tokens.min(wanted) {
            self.tokens_within_memory(&kv, prompt.len(), min_tokens.min(wanted), true)?;
        }
        let deadline = request.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut ends = request.stop_tokens;
        if !request.ignore_eos {
            ends.extend(&self.info.eos_token_ids);
        }
        let constraint = request.grammar.map(|grammar| grammar.start());
        Ok(CheckedRequest {
            prompt,
            prompt_logprobs,
            max_tokens,
            sampler,
            ends,
            constraint,
            kv,
            cache_salt,
            deadline,
        })
    }

    /// Tokens to generate, of those `wanted`, that memory suffices for were the request alone: all of them, if
    /// `exactly` that many were asked for.
    fn tokens_within_memory(
        &self,
        settings: &KvSettings,
        prompt: usize,
        wanted: usize,
        exactly: bool,
    ) -> Result<usize, RequestError> {
        let budget = self.config.kv_memory;
        let need = Need { info: &self.info, settings, prompt };
        let fitting = need.tokens_within(budget, wanted)?;
        match fitting {
            Some(fitting) if fitting == wanted || (fitting > 0 && !exactly) => return Ok(fitting),
            _ => {}
        }
        let new_tokens = if exactly { wanted } else { 1 };
        let presets = self.presets.read().unwrap_or_else(PoisonError::into_inner);
        Err(RequestError::TooMuchMemory {
            preset: settings.preset().to_owned(),
            prompt,
            max_tokens: new_tokens,
            needed: need.in_all(new_tokens)?,
            budget,
            fitting: fitting.unwrap_or(0),
            proposal: need.preset_within(&presets, budget, new_tokens),
        })
    }

    /// Tokens to generate after a prompt: those asked for, or what fits in the context.
    ///
    /// # Errors
    /// [`RequestError::ContextExceeded`] if they do not fit.
    pub(crate) fn tokens_to_generate(
        &self,
        prompt: PromptLength,
        max_tokens: Option<usize>,
    ) -> Result<usize, RequestError> {
        let limit = self.info.context_length;
        match (limit.checked_sub(prompt.least()), max_tokens) {
            (Some(left), None) if left > 0 => Ok(left),
            (Some(left), Some(max)) if left >= max => Ok(max),
            _ => Err(RequestError::ContextExceeded { limit, prompt, max_tokens }),
        }
    }

    /// Tokens of the longest prompt that fits into the memory for caches with these settings, were it alone; no more than
    /// the context has.
    pub fn longest_prompt(&self, kv: &KvChoice) -> usize {
        let (budget, shape) = (self.config.kv_memory, &self.info.kv_shape);
        let fits = |prompt: usize| {
            let settings = kv.settings(shape, prompt, 1).ok();
            let need =
                settings.map(|settings| Need { info: &self.info, settings: &settings, prompt }.in_all(1));
            need.is_some_and(|need| need.is_ok_and(|bytes| bytes <= budget))
        };
        let most = self.info.context_length.saturating_sub(1);
        if fits(most) {
            return most;
        }
        // What a prompt needs grows with it.
        let (mut longest, mut too_long) = (0, most);
        while longest + 1 < too_long {
            let middle = longest.midpoint(too_long);
            if fits(middle) {
                longest = middle;
            } else {
                too_long = middle;
            }
        }
        longest
    }

    /// What to propose, from now on, where memory does not suffice.
    pub fn set_presets(&self, presets: Presets) {
        *self.presets.write().unwrap_or_else(PoisonError::into_inner) = presets;
    }

    /// Facts of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What it was started with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Whether the thread lives; true while it drains.
    pub fn is_alive(&self) -> bool {
        self.queue.is_alive()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        self.queue.load()
    }

    /// What the engine has done and holds.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot(self.config.kv_memory)
    }

    /// Takes no more requests; those taken, running or waiting, are finished. Does not wait.
    pub fn shutdown(&self) {
        self.queue.drain();
    }

    /// Takes no more requests, and ends those taken, running or waiting, with [`GenerateError::Stopped`]. Does
    /// not wait: what the model is in the middle of goes on for a chunk of a prompt or a token.
    ///
    /// [`GenerateError::Stopped`]: crate::GenerateError::Stopped
    pub fn abort(&self) {
        self.queue.abort();
    }
}

impl Drop for TokenEngine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
