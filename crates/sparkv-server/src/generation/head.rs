//! What is the same in a whole answer and in all chunks of a streamed one, as chats and completions write them.

use std::num::NonZeroUsize;

use serde::Serialize;
use sparkv_engine::Usage;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::generation::ids::{SYSTEM_FINGERPRINT, unix_time};
use crate::generation::reply::Delivery;
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
    /// Whether chunks carry `usage`, null in all but the last.
    include_usage: bool,
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
        Self { head, each, include_usage: matches!(delivery, Delivery::Stream { include_usage: true }) }
    }

    /// What answers cost together.
    pub(crate) fn usage(&self, usages: &[Usage]) -> Option<UsageBody> {
        UsageBody::of(usages, self.each)
    }

    /// `usage` of a chunk with a choice: absent, or null if a last chunk reports it.
    pub(crate) fn chunk_usage(&self) -> Option<Option<UsageBody>> {
        self.include_usage.then_some(None)
    }

    /// `usage` of the last chunk, if there is to be one.
    pub(crate) fn last_usage(&self, usages: &[Usage]) -> Option<Option<UsageBody>> {
        self.include_usage.then(|| self.usage(usages))
    }
}
