//! Requests in, events out: everything between a loaded model and whoever serves it.
//!
//! Two layers. [`core`] speaks tokens only: one OS thread owns the model and every cache, takes requests from
//! a bounded line, samples, and sends one event per token. [`text`] wraps it in strings: chat template,
//! tokenizer, incremental detokenizer and stop strings, all of which run on the caller's side, so that the
//! model's thread does nothing but compute.
//!
//! ```text
//! GenerateRequest -> TextEngine::generate -> line -> model thread -> tokens -> EventStream -> Event
//!                    (render, encode, check)         (prefill, decode, sample)  (decode, stop strings)
//! ```
//!
//! What holds whatever happens:
//! - every request ends exactly once, with [`Event::Done`] or with an error;
//! - dropping an [`EventStream`] cancels its request: waiting, in its prompt, or between two tokens;
//! - a sequence that fails (an error, a panic, logits without a number in them) fails alone;
//! - the tokens of a request depend on the request alone, never on what else runs.

pub mod chat;
pub mod core;
pub mod event;
pub mod request;
pub mod sampler;
pub mod text;

pub use sparkv_models::ModelInfo;

pub use crate::{
    chat::{Chat, ChatMessage, Tool, ToolCall, Turn},
    core::{EngineConfig, Load, Stats},
    event::{Event, FinishReason, GenerateError, PromptToken, TextLogprob, Timings, TokenScore, Usage},
    request::{
        GenerateRequest, GenerationDefaults, Otherwise, OutputFormat, Prompt, PromptLength, RequestError,
    },
    sampler::{InvalidParam, RepetitionDetection, SamplingParams},
    text::{CallParser, EventStream, ParsedDelta, TextEngine, TextModel, TokenizerInfo, ToolFormat},
};
