//! How /v1/completions writes its answers.

use axum::response::sse;
use sparkv_engine::{PromptToken, TextLogprob, Usage};

use crate::completions::types::{Choice, Completion};
use crate::error::ApiError;
use crate::generation::head::Envelope;
use crate::generation::ids::finish_reason;
use crate::generation::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::generation::reply::{Answer, AnswerDelta, Delivery, End, Reply};
use crate::generation::requests::CheckedRequests;
use crate::generation::usage::UsageBody;
use crate::generation::wire::{data, done, failed};

/// Where the log probabilities of a prompt's tokens are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PromptTold {
    /// Among those of the answer; the prompt's text is then written with them.
    pub(crate) in_logprobs: bool,
    /// In a list of their own.
    pub(crate) apart: bool,
}

/// Writes the answers to one request.
pub(crate) struct CompletionReply {
    envelope: Envelope,
    /// Whether log probabilities were asked for.
    logprobs: bool,
    prompt: PromptTold,
    /// What each answer begins with.
    echo: Vec<String>,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
}

impl CompletionReply {
    /// `echo` holds the prompts' texts, or nothing.
    pub(crate) fn new(
        model: &str,
        delivery: Delivery,
        asked: &CheckedRequests,
        echo: Vec<String>,
        prompt: PromptTold,
    ) -> Self {
        let each = asked.answers.get();
        let echo = if echo.is_empty() { vec![String::new(); asked.requests.len()] } else { echo };
        let echo: Vec<String> = echo.into_iter().flat_map(|text| vec![text; each]).collect();
        Self {
            envelope: Envelope::new("cmpl", "text_completion", model, asked.answers, delivery),
            logprobs: asked.requests.iter().any(|request| request.sampling.logprobs.is_some()),
            prompt,
            offsets: echo.iter().map(|text| text.chars().count()).collect(),
            echo,
        }
    }

    fn completion(&self, choices: Vec<Choice>, usage: Option<Option<UsageBody>>) -> Completion {
        Completion { head: self.envelope.head.clone(), choices, usage }
    }

    fn chunk(&self, choice: Choice) -> sse::Event {
        data(&self.completion(vec![choice], self.envelope.chunk_usage()))
    }

    /// Those of a text, behind those of the prompt.
    fn logprobs(
        &mut self,
        index: usize,
        prompt: Vec<PromptToken>,
        text: Vec<TextLogprob>,
    ) -> Option<CompletionLogprobs> {
        self.logprobs.then(|| {
            let mut logprobs = CompletionLogprobs::prompt(prompt);
            logprobs.extend(text, &mut self.offsets[index]);
            logprobs
        })
    }

    /// The chunk with the prompt's text.
    fn echo(&mut self, index: usize, logprobs: Option<CompletionLogprobs>) -> sse::Event {
        let text = std::mem::take(&mut self.echo[index]);
        self.chunk(Choice { text, index, logprobs, ..Choice::default() })
    }
}

impl Reply for CompletionReply {
    type Body = Completion;
    type Piece = sse::Event;

    fn body(mut self, answers: Vec<Answer>, usage: Vec<Usage>) -> Completion {
        let mut choices = Vec::new();
        for (index, Answer { prompt, items, end }) in answers.into_iter().enumerate() {
            let (text, logprobs, _) = Answer::sorted(items);
            let text = std::mem::take(&mut self.echo[index]) + &text;
            let finish_reason = Some(finish_reason(end.reason));
            let prompt_logprobs = self.prompt.apart.then(|| PromptLogprobs::from(prompt.clone()));
            let prompt = if self.prompt.in_logprobs { prompt } else { Vec::new() };
            let logprobs = self.logprobs(index, prompt, logprobs);
            choices.push(Choice { text, index, logprobs, finish_reason, prompt_logprobs });
        }
        self.completion(choices, Some(self.envelope.usage(&usage)))
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        if self.prompt.in_logprobs {
            return Vec::new();
        }
        let echoed: Vec<usize> = (0..self.echo.len()).filter(|&index| !self.echo[index].is_empty()).collect();
        echoed.into_iter().map(|index| self.echo(index, None)).collect()
    }

    fn prompt(&mut self, index: usize, tokens: Vec<PromptToken>) -> Vec<sse::Event> {
        let logprobs = self.logprobs(index, tokens, Vec::new());
        vec![self.echo(index, logprobs)]
    }

    fn count(&mut self, index: usize, prompt_tokens: usize, completion_tokens: usize) {
        self.envelope.count(index, prompt_tokens, completion_tokens);
    }

    fn add(&mut self, index: usize, delta: AnswerDelta) -> Vec<sse::Event> {
        // There are no tools, so there is nothing but text.
        let AnswerDelta::Text { text, logprobs } = delta else { return Vec::new() };
        let logprobs = self.logprobs(index, Vec::new(), logprobs);
        vec![self.chunk(Choice { text, index, logprobs, ..Choice::default() })]
    }

    fn end(&mut self, index: usize, end: End) -> Vec<sse::Event> {
        let finish_reason = Some(finish_reason(end.reason));
        vec![self.chunk(Choice { index, finish_reason, ..Choice::default() })]
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        let last = self.envelope.last_usage(&usage);
        let last = last.map(|usage| data(&self.completion(Vec::new(), Some(usage))));
        last.into_iter().chain([done()]).collect()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<sse::Event> {
        failed(error)
    }
}
