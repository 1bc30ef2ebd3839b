//! How /v1/chat/completions writes its answers.

use sparkv_engine::FinishReason;

use crate::chat::types::{AnswerMessage, ChatChunk, ChatCompletion, Choice, ChunkChoice, Delta};
use crate::common::convert::{Head, SYSTEM_FINGERPRINT, finish_reason};
use crate::common::types::UsageBody;
use crate::reply::{Answer, Delivery, Reply};

/// Who speaks.
const ROLE: &str = "assistant";

/// Writes one answer.
pub(crate) struct ChatReply(Head);

impl ChatReply {
    pub(crate) fn new(model: &str, delivery: Delivery) -> Self {
        Self(Head::new("chatcmpl", model, delivery))
    }

    fn chunk(&self, choice: Option<(Delta, Option<FinishReason>)>, usage: Option<UsageBody>) -> ChatChunk {
        let Head { id, created, model, .. } = self.0.clone();
        let choices = choice.into_iter().map(|(delta, reason)| ChunkChoice {
            index: 0,
            delta,
            logprobs: (),
            finish_reason: reason.map(finish_reason),
        });
        ChatChunk {
            id,
            object: "chat.completion.chunk",
            created,
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: choices.collect(),
            usage: self.0.chunk_usage(usage),
        }
    }
}

impl Reply for ChatReply {
    type Body = ChatCompletion;
    type Chunk = ChatChunk;

    fn body(self, answer: Answer) -> ChatCompletion {
        let Head { id, created, model, .. } = self.0;
        let Answer { text, reason, usage } = answer;
        ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: [Choice {
                index: 0,
                message: AnswerMessage { role: ROLE, content: text, refusal: () },
                logprobs: (),
                finish_reason: finish_reason(reason),
            }],
            usage,
        }
    }

    fn opening(&self) -> Option<ChatChunk> {
        let delta = Delta { role: Some(ROLE), content: Some(String::new()) };
        Some(self.chunk(Some((delta, None)), None))
    }

    fn text(&self, text: String) -> ChatChunk {
        self.chunk(Some((Delta { role: None, content: Some(text) }, None)), None)
    }

    fn finish(&self, reason: FinishReason) -> ChatChunk {
        self.chunk(Some((Delta::default(), Some(reason))), None)
    }

    fn usage(&self, usage: UsageBody) -> Option<ChatChunk> {
        self.0.include_usage().then(|| self.chunk(None, Some(usage)))
    }
}
