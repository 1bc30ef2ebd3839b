//! Requests and events of the text engine: the contract between the engine and whoever serves it.
//! (A sketch to be implemented: names and shapes are settled, the place in modules is not.)
use sparkv::{KvChoice, KvUsage};

pub struct SamplingParams {
    pub temperature: f32,      // 0 = greedy
    pub top_p: f32,            // 1 = off
    pub top_k: usize,          // 0 = off
    pub min_p: f32,            // 0 = off
    pub seed: Option<u64>,     // None: drawn by the engine
}
// SamplingParams::validate() -> Result<(), InvalidParam { param, message }>

pub enum Prompt {
    Text(String),               // gets the tokenizer's BOS etc. as the tokenizer's post-processor says
    Tokens(Vec<u32>),           // taken as they are
    Chat(Vec<ChatMessage>),     // rendered by the model's chat template, add_generation_prompt = true
}
pub struct ChatMessage { pub role: String, pub content: String }

pub struct GenerateRequest {
    pub prompt: Prompt,
    pub max_tokens: Option<usize>,   // None: what fits in the context
    pub sampling: SamplingParams,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
    pub kv: KvChoice,
}

pub enum FinishReason { Stop, Length }

pub struct Usage { pub prompt_tokens: usize, pub completion_tokens: usize, pub kv_cache: KvUsage }
pub struct Timings { pub queue_seconds: f64, pub prefill_seconds: f64, pub decode_seconds: f64 }

pub enum Event {
    /// Text that is final: complete UTF-8, never part of a stop string. May be empty of text but carry ids.
    Text { text: String, token_ids: Vec<u32> },
    /// The last event.
    Done { reason: FinishReason, usage: Usage, timings: Timings },
}

/// Refused before it ran.
pub enum RequestError {
    InvalidParam { param: String, message: String },                     // 400
    ContextExceeded { limit: usize, prompt_tokens: usize, max_tokens: Option<usize> }, // 400 context_length_exceeded
    QueueFull { max_queue: usize },                                      // 429
    NoChatTemplate,                                                      // 400
    Template(String),                                                    // 400: the template's own raise_exception
    Stopped,                                                             // 503: the engine is gone or draining
}
/// Failed while it ran: this sequence only.
pub struct GenerateError(String);

// pub struct EventStream  -- implements futures Stream<Item = Result<Event, GenerateError>>; also
//   async fn next(&mut self), fn blocking_next(&mut self). Dropping it cancels the request at once.
// #[derive(Clone)] pub struct TextEngine -- handle, cheap to clone, Send + Sync
//   TextEngine::start(model: impl LanguageModel + 'static, text: TextModel, config: EngineConfig { max_queue }) -> TextEngine
//   fn generate(&self, GenerateRequest) -> Result<EventStream, RequestError>   // tokenizes, checks lengths, enqueues (does not block for long)
//   fn info(&self) -> &ModelInfo ; fn tokenizer(&self) -> &Tokenizer ; fn is_alive(&self) -> bool ; fn load(&self) -> Load { running, waiting }
//   fn shutdown(&self): stop taking requests, finish what runs
// TextModel { tokenizer, chat_template: Option<ChatTemplate> } made from tokenizer.json + tokenizer_config.json
//   strings (loader in sparkv-models returns those as `TextFiles`)
