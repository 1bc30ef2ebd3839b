//! What is the same in a whole answer and in all chunks of a streamed one, as chats and completions write them.

use std::num::NonZeroUsize;

use serde::Serialize;
use sparkv_engine::Usage;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::generation::ids::{SYSTEM_FINGERPRINT, unix_time};
use crate::generation::reply::{Delivery, StreamUsage};
use crate::generation::usage::UsageBody;

/// What an answer and its chunks begin with.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = CompletionHead)]
pub(crate) struct Head {
    id: String,
    /// What it is.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    system_fingerprint: &'static str,
}

/// Writes what surrounds the choices.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) head: Head,
    /// Answers to each prompt.
    each: NonZeroUsize,
    /// Which chunks carry `usage`.
    stream_usage: StreamUsage,
    /// Tokens of each answer's prompt, and of the answer so far.
    counts: Vec<(usize, usize)>,
}

impl Envelope {
    /// Around a new answer; `prefix` of its id and `object` tell the kind.
    pub(crate) fn new(
        prefix: &str,
        object: &'static str,
        model: &str,
        each: NonZeroUsize,
        delivery: Delivery,
    ) -> Self {
        let head = Head {
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            object,
            created: unix_time(),
            model: model.to_owned(),
            system_fingerprint: SYSTEM_FINGERPRINT,
        };
        let stream_usage = match delivery {
            Delivery::Whole => StreamUsage::Never,
            Delivery::Stream(usage) => usage,
        };
        Self { head, each, stream_usage, counts: Vec::new() }
    }

    /// What answers cost together.
    pub(crate) fn usage(&self, usages: &[Usage]) -> Option<UsageBody> {
        UsageBody::of(usages, self.each)
    }

    /// Takes note of how far an answer has come.
    pub(crate) fn count(&mut self, index: usize, prompt_tokens: usize, completion_tokens: usize) {
        if self.counts.len() <= index {
            self.counts.resize(index + 1, (0, 0));
        }
        self.counts[index] = (prompt_tokens, completion_tokens);
    }

    /// `usage` of a chunk with a choice: absent, null if a last chunk reports it, or what was used so far.
    pub(crate) fn chunk_usage(&self) -> Option<Option<UsageBody>> {
        match self.stream_usage {
            StreamUsage::Never => None,
            StreamUsage::Last => Some(None),
            StreamUsage::Everywhere => Some(Some(UsageBody::so_far(&self.counts, self.each))),
        }
    }

    /// `usage` of the last chunk, if there is to be one.
    pub(crate) fn last_usage(&self, usages: &[Usage]) -> Option<Option<UsageBody>> {
        (self.stream_usage != StreamUsage::Never).then(|| self.usage(usages))
    }
}
