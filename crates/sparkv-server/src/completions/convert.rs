//! How /v1/completions writes its answers.

use sparkv_engine::FinishReason;

use crate::common::convert::{Head, SYSTEM_FINGERPRINT, finish_reason};
use crate::common::types::UsageBody;
use crate::completions::types::{Choice, Completion};
use crate::reply::{Answer, Delivery, Reply};

/// Writes one answer.
pub(crate) struct CompletionReply(Head);

impl CompletionReply {
    pub(crate) fn new(model: &str, delivery: Delivery) -> Self {
        Self(Head::new("cmpl", model, delivery))
    }

    fn completion(&self, choice: Option<Choice>, usage: Option<Option<UsageBody>>) -> Completion {
        let Head { id, created, model, .. } = self.0.clone();
        Completion {
            id,
            object: "text_completion",
            created,
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: choice.into_iter().collect(),
            usage,
        }
    }
}

fn choice(text: String, reason: Option<FinishReason>) -> Option<Choice> {
    Some(Choice { text, index: 0, logprobs: (), finish_reason: reason.map(finish_reason) })
}

impl Reply for CompletionReply {
    type Body = Completion;
    type Chunk = Completion;

    fn body(self, answer: Answer) -> Completion {
        self.completion(choice(answer.text, Some(answer.reason)), Some(Some(answer.usage)))
    }

    fn opening(&self) -> Option<Completion> {
        None
    }

    fn text(&self, text: String) -> Completion {
        self.completion(choice(text, None), self.0.chunk_usage(None))
    }

    fn finish(&self, reason: FinishReason) -> Completion {
        self.completion(choice(String::new(), Some(reason)), self.0.chunk_usage(None))
    }

    fn usage(&self, usage: UsageBody) -> Option<Completion> {
        self.0.include_usage().then(|| self.completion(None, Some(Some(usage))))
    }
}
