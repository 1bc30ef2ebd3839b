//! How /v1/chat/completions writes its answers.

use axum::response::sse;
use sparkv_engine::{FinishReason, TextLogprob, Usage};

use crate::chat::types::{
    AnswerCall, AnswerFunction, AnswerMessage, ChatChunk, ChatCompletion, Choice, ChunkChoice, Delta,
};
use crate::error::ApiError;
use crate::generation::head::Envelope;
use crate::generation::ids::{call_id, finish_reason};
use crate::generation::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::generation::reply::{Answer, AnswerDelta, Call, Delivery, End, Reply};
use crate::generation::requests::CheckedRequests;
use crate::generation::wire::{data, done, failed};

/// Who speaks.
const ROLE: &str = "assistant";

/// Writes the answers to one conversation.
pub(crate) struct ChatReply {
    envelope: Envelope,
    /// Whether log probabilities were asked for.
    logprobs: bool,
    /// Calls that each answer has begun.
    calls: Vec<usize>,
}

impl ChatReply {
    pub(crate) fn new(model: &str, delivery: Delivery, asked: &CheckedRequests) -> Self {
        let object = match delivery {
            Delivery::Whole => "chat.completion",
            Delivery::Stream(_) => "chat.completion.chunk",
        };
        Self {
            envelope: Envelope::new("chatcmpl", object, model, asked.answers, delivery),
            logprobs: asked.requests.iter().any(|request| request.sampling.logprobs.is_some()),
            calls: vec![0; asked.answers.get()],
        }
    }

    fn chunk(&self, choice: ChunkChoice) -> sse::Event {
        let usage = self.envelope.chunk_usage();
        data(&ChatChunk { head: self.envelope.head.clone(), choices: vec![choice], usage })
    }

    fn delta(&self, index: usize, delta: Delta, logprobs: Vec<TextLogprob>) -> sse::Event {
        let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| logprobs.into());
        self.chunk(ChunkChoice { index, delta, logprobs, finish_reason: None })
    }
}

/// Why an answer ended, calls considered.
fn reason(end: &End) -> &'static str {
    if end.called && end.reason == FinishReason::Stop { "tool_calls" } else { finish_reason(end.reason) }
}

fn choice(index: usize, answer: Answer, with_logprobs: bool) -> Choice {
    let Answer { items, end, .. } = answer;
    let (text, logprobs, calls) = Answer::sorted(items);
    let call = |Call { name, arguments }| AnswerCall {
        index: None,
        id: Some(call_id()),
        kind: Some("function"),
        function: AnswerFunction { name: Some(name), arguments },
    };
    let content = (calls.is_empty() || !text.is_empty()).then_some(text);
    let tool_calls = calls.into_iter().map(call).collect();
    Choice {
        index,
        message: AnswerMessage { role: ROLE, content, refusal: (), tool_calls },
        logprobs: with_logprobs.then(|| ChatLogprobs::from(logprobs)),
        finish_reason: reason(&end),
    }
}

impl Reply for ChatReply {
    type Body = ChatCompletion;
    type Piece = sse::Event;

    fn body(self, mut answers: Vec<Answer>, usage: Vec<Usage>) -> ChatCompletion {
        let usage = self.envelope.usage(&usage);
        // The prompt is that of all answers.
        let prompt = answers.first_mut().map(|answer| std::mem::take(&mut answer.prompt)).unwrap_or_default();
        let prompt_logprobs = (!prompt.is_empty()).then(|| PromptLogprobs::from(prompt));
        let choices = answers.into_iter().enumerate();
        let choices = choices.map(|(index, answer)| choice(index, answer, self.logprobs)).collect();
        ChatCompletion { head: self.envelope.head, choices, usage, prompt_logprobs }
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        let delta = || Delta { role: Some(ROLE), content: Some(String::new()), tool_calls: Vec::new() };
        (0..self.calls.len()).map(|index| self.delta(index, delta(), Vec::new())).collect()
    }

    fn count(&mut self, index: usize, prompt_tokens: usize, completion_tokens: usize) {
        self.envelope.count(index, prompt_tokens, completion_tokens);
    }

    fn add(&mut self, index: usize, delta: AnswerDelta) -> Vec<sse::Event> {
        let mut logprobs = Vec::new();
        let mut message = Delta::default();
        match delta {
            AnswerDelta::Text { text, logprobs: those } => {
                message.content = Some(text);
                logprobs = those;
            }
            AnswerDelta::Call { name } => {
                self.calls[index] += 1;
                message.tool_calls.push(AnswerCall {
                    index: Some(self.calls[index] - 1),
                    id: Some(call_id()),
                    kind: Some("function"),
                    function: AnswerFunction { name: Some(name), arguments: String::new() },
                });
            }
            AnswerDelta::Arguments(arguments) => message.tool_calls.push(AnswerCall {
                index: Some(self.calls[index].saturating_sub(1)),
                id: None,
                kind: None,
                function: AnswerFunction { name: None, arguments },
            }),
        }
        vec![self.delta(index, message, logprobs)]
    }

    fn end(&mut self, index: usize, end: End) -> Vec<sse::Event> {
        let finish_reason = Some(reason(&end));
        let delta = Delta::default();
        vec![self.chunk(ChunkChoice { index, delta, logprobs: None, finish_reason })]
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        let last = self.envelope.last_usage(&usage).map(|usage| {
            data(&ChatChunk { head: self.envelope.head.clone(), choices: Vec::new(), usage: Some(usage) })
        });
        last.into_iter().chain([done()]).collect()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<sse::Event> {
        failed(error)
    }
}
