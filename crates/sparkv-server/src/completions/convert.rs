//! How /v1/completions writes its answers.

use axum::response::sse;
use sparkv_engine::{TextLogprob, Usage};

use crate::completions::types::{Choice, Completion};
use crate::generation::head::Head;
use crate::generation::ids::{SYSTEM_FINGERPRINT, finish_reason};
use crate::generation::logprobs::CompletionLogprobs;
use crate::generation::reply::{Answer, Delivery, End, Part, Reply, data, done};
use crate::generation::usage::UsageBody;
use crate::generation::work::Work;

/// Writes the answers to one request.
pub(crate) struct CompletionReply {
    head: Head,
    /// Whether log probabilities were asked for.
    logprobs: bool,
    /// What each answer begins with.
    echo: Vec<String>,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
}

impl CompletionReply {
    /// `echo` holds the prompts' texts, or nothing.
    pub(crate) fn new(model: &str, delivery: Delivery, work: &Work, echo: Vec<String>) -> Self {
        let each = work.answers.get();
        let echo = if echo.is_empty() { vec![String::new(); work.requests.len()] } else { echo };
        let echo: Vec<String> = echo.into_iter().flat_map(|text| vec![text; each]).collect();
        Self {
            head: Head::new("cmpl", model, work.answers, delivery),
            logprobs: work.requests.iter().any(|request| request.sampling.logprobs.is_some()),
            offsets: echo.iter().map(|text| text.chars().count()).collect(),
            echo,
        }
    }

    fn completion(&self, choices: Vec<Choice>, usage: Option<Option<UsageBody>>) -> Completion {
        let Head { id, created, model, .. } = self.head.clone();
        let system_fingerprint = SYSTEM_FINGERPRINT;
        Completion { id, object: "text_completion", created, model, system_fingerprint, choices, usage }
    }

    fn chunk(&self, choice: Choice) -> sse::Event {
        data(&self.completion(vec![choice], self.head.chunk_usage(None)))
    }

    fn logprobs(&mut self, index: usize, logprobs: Vec<TextLogprob>) -> Option<CompletionLogprobs> {
        self.logprobs.then(|| CompletionLogprobs::new(logprobs, &mut self.offsets[index]))
    }
}

impl Reply for CompletionReply {
    type Body = Completion;

    fn body(mut self, answers: Vec<Answer>, usage: Vec<Usage>) -> Completion {
        let mut choices = Vec::new();
        for (index, Answer { items, end }) in answers.into_iter().enumerate() {
            let (text, logprobs, _) = Answer::sorted(items);
            let text = std::mem::take(&mut self.echo[index]) + &text;
            let finish_reason = Some(finish_reason(end.reason));
            choices.push(Choice { text, index, logprobs: self.logprobs(index, logprobs), finish_reason });
        }
        self.completion(choices, Some(self.head.usage(&usage)))
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        let echo = self.echo.iter().enumerate().filter(|(_, text)| !text.is_empty());
        let choice = |(index, text): (usize, &String)| Choice {
            text: text.clone(),
            index,
            logprobs: None,
            finish_reason: None,
        };
        echo.map(|echo| self.chunk(choice(echo))).collect()
    }

    fn part(&mut self, index: usize, part: Part) -> Vec<sse::Event> {
        // There are no tools, so there is nothing but text.
        let Part::Text { text, logprobs } = part else { return Vec::new() };
        let logprobs = self.logprobs(index, logprobs);
        vec![self.chunk(Choice { text, index, logprobs, finish_reason: None })]
    }

    fn end(&mut self, index: usize, end: End) -> Vec<sse::Event> {
        let finish_reason = Some(finish_reason(end.reason));
        vec![self.chunk(Choice { text: String::new(), index, logprobs: None, finish_reason })]
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        let usage = self.head.usage(&usage);
        let usage = self.head.include_usage().then(|| data(&self.completion(Vec::new(), Some(usage))));
        usage.into_iter().chain([done()]).collect()
    }
}
