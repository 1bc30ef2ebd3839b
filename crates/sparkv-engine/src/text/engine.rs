//! The engine as its users see it.
use std::{num::NonZeroUsize, sync::Arc};

use sparkv::{KvChoice, Presets};
use sparkv_models::{LanguageModel, ModelInfo};

use super::{
    detokenizer::Detokenizer,
    model::TextModel,
    stop::StopMatcher,
    stream::{AnswerText, EventStream, PromptText},
};
use crate::{
    chat::Turn,
    core::{EngineConfig, Load, Stats, TokenEngine, TokenRequest},
    request::{GenerateRequest, Prompt, PromptLength, RequestError},
};

/// A request in tokens, and how the tokens of its answers become text.
struct Encoded {
    request: TokenRequest,
    /// Whether the text goes on from the prompt's.
    continues: bool,
    /// See [`PromptText::spells_special`].
    spells_special: bool,
    /// Texts that end it.
    stop: Vec<String>,
}

impl Encoded {
    /// What is asked for the nth answer.
    fn nth(&self, nth: u64) -> TokenRequest {
        let mut request = self.request.clone();
        request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(nth));
        request
    }
}

/// A handle on a running engine: cheap to clone, shared by all who serve it. When the last one is dropped the
/// engine finishes what it took and ends.
#[derive(Debug, Clone)]
pub struct TextEngine {
    tokens: Arc<TokenEngine>,
    text: Arc<TextModel>,
}

impl TextEngine {
    /// Starts the thread that owns `model`. Requests that need too much memory are told which of `presets` would do.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<M: LanguageModel + 'static>(
        model: M,
        text: TextModel,
        config: EngineConfig,
        presets: Presets,
    ) -> std::io::Result<Self> {
        Ok(Self { tokens: Arc::new(TokenEngine::start(model, config, presets)?), text: Arc::new(text) })
    }

    /// Renders, encodes and checks a request, and puts it in the queue. Does not wait, but encodes on the caller's
    /// thread: milliseconds for a long prompt. A text that cannot fit in the context is refused unencoded:
    /// encoding takes some hundred times the text's memory.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn generate(&self, request: GenerateRequest) -> Result<EventStream, RequestError> {
        let mut only = self.generate_all(vec![request], NonZeroUsize::MIN)?;
        only.pop().ok_or(RequestError::Stopped)
    }

    /// The same for several answers to each of several prompts, those to one after those to the one before; a prompt
    /// is encoded once. With a seed, each answer to a prompt has its own: the seed and those that follow it.
    ///
    /// # Errors
    /// Whatever of [`RequestError`] applies; nothing was queued then.
    pub fn generate_all(
        &self,
        requests: Vec<GenerateRequest>,
        answers: NonZeroUsize,
    ) -> Result<Vec<EventStream>, RequestError> {
        // A full queue turns away before anything is worked on.
        self.check_room(requests.len().saturating_mul(answers.get()))?;
        let (mut requests_in_tokens, mut texts) = (Vec::new(), Vec::new());
        for request in requests {
            let encoded = self.encode_request(request)?;
            for nth in 0..answers.get() as u64 {
                texts.push(self.answer_text(&encoded)?);
                requests_in_tokens.push(encoded.nth(nth));
            }
        }
        let tokens = self.tokens.submit_all(requests_in_tokens)?;
        Ok(tokens.into_iter().zip(texts).map(|(tokens, text)| EventStream::new(tokens, text)).collect())
    }

    /// Renders, encodes and checks a request.
    fn encode_request(&self, request: GenerateRequest) -> Result<Encoded, RequestError> {
        let GenerateRequest { prompt, prompt_logprobs, max_tokens, fit_context, sampling, stop, .. } =
            request;
        if stop.iter().any(String::is_empty) {
            return Err(RequestError::invalid("stop", "a stop string must not be empty"));
        }
        if request.format.is_some() {
            for (param, is_set) in
                [("ignore_eos", request.ignore_eos), ("min_tokens", sampling.min_tokens > 0)]
            {
                if is_set {
                    let message = "an answer in a format ends where the format does";
                    return Err(RequestError::invalid(param, message));
                }
            }
        }
        // An answer is a text of its own; a completion goes on where its prompt ends, leading space and all.
        let continues = !matches!(&prompt, Prompt::Chat(chat) if chat.next == Turn::Answer);
        let spells_special = matches!(&prompt, Prompt::Tokens(_));
        let opening = match &prompt {
            Prompt::Chat(chat) if request.kv.keeps_system() => self.text.opening(chat),
            _ => Vec::new(),
        };
        let prompt = self.text.write(prompt)?;
        self.tokens.tokens_to_generate(self.text.length(&prompt), max_tokens.filter(|max| *max == 0))?;
        let prompt = self.text.encode_written(prompt)?;
        let system_tokens = prompt.iter().zip(&opening).take_while(|(a, b)| a == b).count();
        let max_tokens = if fit_context {
            let length = PromptLength::Exactly(prompt.len());
            let fitting = self.tokens.tokens_to_generate(length, None)?;
            if sampling.min_tokens > fitting {
                self.tokens.tokens_to_generate(length, Some(sampling.min_tokens))?;
            }
            max_tokens.map(|max| max.min(fitting))
        } else {
            max_tokens
        };
        let grammar =
            request.format.map(|format| self.text.compile(&format, self.tokens.info())).transpose()?;
        let request = TokenRequest {
            prompt,
            prompt_logprobs,
            max_tokens,
            fit_memory: fit_context,
            sampling,
            ignore_eos: request.ignore_eos,
            stop_tokens: request.stop_tokens,
            grammar,
            kv: request.kv,
            cache_salt: request.cache_salt,
            system_tokens,
            timeout: request.timeout,
        };
        Ok(Encoded { request, continues, spells_special, stop })
    }

    /// What makes text of the tokens of an answer.
    fn answer_text(&self, encoded: &Encoded) -> Result<AnswerText, RequestError> {
        let Encoded { request, continues, spells_special, stop } = encoded;
        let context = if *continues { request.prompt.as_slice() } else { &[] };
        let detokenizer = Detokenizer::after(Arc::clone(&self.text), context)
            .map_err(|error| RequestError::invalid("prompt", format!("cannot be decoded: {error}")))?;
        let scored = request.prompt_logprobs.map(|_| PromptText {
            model: Arc::clone(&self.text),
            ids: request.prompt.clone(),
            spells_special: *spells_special,
        });
        let stop = StopMatcher::new(stop.clone(), request.sampling.min_tokens);
        Ok(AnswerText { detokenizer, stop, prompt_tokens: request.prompt.len(), scored })
    }

    /// The tokens of a prompt, as [`Self::generate`] would continue them.
    ///
    /// # Errors
    /// As [`TextModel::encode`]; and if it cannot fit in the context.
    pub fn encode(&self, prompt: Prompt) -> Result<Vec<u32>, RequestError> {
        let prompt = self.text.write(prompt)?;
        self.tokens.tokens_to_generate(self.text.length(&prompt), None)?;
        self.text.encode_written(prompt)
    }

    /// The model's tokenizer and chat template.
    pub fn text(&self) -> &TextModel {
        &self.text
    }

    /// Whether so many requests that came now would be taken, as far as that depends on others.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::Stopped`].
    pub fn check_room(&self, requests: usize) -> Result<(), RequestError> {
        self.tokens.check_room(requests)
    }

    /// Tokens of the longest prompt that fits into the memory for caches with these settings, were it alone; no more than
    /// the context has.
    pub fn longest_prompt(&self, kv: &KvChoice) -> usize {
        self.tokens.longest_prompt(kv)
    }

    /// What to propose, from now on, where memory does not suffice.
    pub fn set_presets(&self, presets: Presets) {
        self.tokens.set_presets(presets);
    }

    /// Facts of the model.
    pub fn info(&self) -> &ModelInfo {
        self.tokens.info()
    }

    /// What it was started with.
    pub fn config(&self) -> &EngineConfig {
        self.tokens.config()
    }

    /// Whether the engine's thread lives; true while it drains.
    pub fn is_alive(&self) -> bool {
        self.tokens.is_alive()
    }

    /// How busy the engine is.
    pub fn load(&self) -> Load {
        self.tokens.load()
    }

    /// What the engine has done and holds.
    pub fn stats(&self) -> Stats {
        self.tokens.stats()
    }

    /// Takes no more requests; those taken, running or waiting, are finished. Does not wait.
    pub fn shutdown(&self) {
        self.tokens.shutdown();
    }

    /// Takes no more requests, and ends those taken, running or waiting, with [`GenerateError::Stopped`]. Does
    /// not wait.
    ///
    /// [`GenerateError::Stopped`]: crate::GenerateError::Stopped
    pub fn abort(&self) {
        self.tokens.abort();
    }
}
