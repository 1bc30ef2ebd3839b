//! How /v1/chat/completions writes its answers.

use std::num::NonZeroUsize;

use axum::response::sse;
use sparkv_engine::{FinishReason, GenerateRequest, TextLogprob, Usage};

use crate::chat::types::{
    AnswerCall, AnswerFunction, AnswerMessage, ChatChunk, ChatCompletion, Choice, ChunkChoice, Delta,
};
use crate::generation::head::Head;
use crate::generation::ids::{SYSTEM_FINGERPRINT, call_id, finish_reason};
use crate::generation::logprobs::ChatLogprobs;
use crate::generation::reply::{Answer, Call, Delivery, End, Part, Reply, data, done};
use crate::generation::usage::UsageBody;

/// Who speaks.
const ROLE: &str = "assistant";

/// Writes the answers to one conversation.
pub(crate) struct ChatReply {
    head: Head,
    /// Whether log probabilities were asked for.
    logprobs: bool,
    /// Calls that each answer has begun.
    calls: Vec<usize>,
}

impl ChatReply {
    pub(crate) fn new(
        model: &str,
        answers: NonZeroUsize,
        delivery: Delivery,
        requests: &[GenerateRequest],
    ) -> Self {
        Self {
            head: Head::new("chatcmpl", model, answers, delivery),
            logprobs: requests.iter().any(|request| request.sampling.logprobs.is_some()),
            calls: vec![0; answers.get()],
        }
    }

    fn chunk(&self, choice: Option<ChunkChoice>, usage: Option<UsageBody>) -> sse::Event {
        let Head { id, created, model, .. } = self.head.clone();
        data(&ChatChunk {
            id,
            object: "chat.completion.chunk",
            created,
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: choice.into_iter().collect(),
            usage: self.head.chunk_usage(usage),
        })
    }

    fn delta(&self, index: usize, delta: Delta, logprobs: Vec<TextLogprob>) -> sse::Event {
        let logprobs = (self.logprobs && !logprobs.is_empty()).then(|| logprobs.into());
        self.chunk(Some(ChunkChoice { index, delta, logprobs, finish_reason: None }), None)
    }
}

/// Why an answer ended, calls considered.
fn reason(end: &End) -> &'static str {
    if end.called && end.reason == FinishReason::Stop { "tool_calls" } else { finish_reason(end.reason) }
}

fn choice(index: usize, answer: Answer, with_logprobs: bool) -> Choice {
    let Answer { items, end } = answer;
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

    fn body(self, answers: Vec<Answer>, usage: Vec<Usage>) -> ChatCompletion {
        let usage = self.head.usage(&usage);
        let Head { id, created, model, .. } = self.head;
        let choices = answers.into_iter().enumerate();
        ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: choices.map(|(index, answer)| choice(index, answer, self.logprobs)).collect(),
            usage,
        }
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        let delta = || Delta { role: Some(ROLE), content: Some(String::new()), tool_calls: Vec::new() };
        (0..self.calls.len()).map(|index| self.delta(index, delta(), Vec::new())).collect()
    }

    fn part(&mut self, index: usize, part: Part) -> Vec<sse::Event> {
        let mut logprobs = Vec::new();
        let mut delta = Delta::default();
        match part {
            Part::Text { text, logprobs: those } => {
                delta.content = Some(text);
                logprobs = those;
            }
            Part::Call { name } => {
                self.calls[index] += 1;
                delta.tool_calls.push(AnswerCall {
                    index: Some(self.calls[index] - 1),
                    id: Some(call_id()),
                    kind: Some("function"),
                    function: AnswerFunction { name: Some(name), arguments: String::new() },
                });
            }
            Part::Arguments(arguments) => delta.tool_calls.push(AnswerCall {
                index: Some(self.calls[index].saturating_sub(1)),
                id: None,
                kind: None,
                function: AnswerFunction { name: None, arguments },
            }),
        }
        vec![self.delta(index, delta, logprobs)]
    }

    fn end(&mut self, index: usize, end: End) -> Vec<sse::Event> {
        let finish_reason = Some(reason(&end));
        let delta = Delta::default();
        vec![self.chunk(Some(ChunkChoice { index, delta, logprobs: None, finish_reason }), None)]
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        let usage = self.head.include_usage().then(|| self.chunk(None, self.head.usage(&usage)));
        usage.into_iter().chain([done()]).collect()
    }
}
