//! What is the same in all chunks of an answer.

use std::num::NonZeroUsize;

use sparkv_engine::Usage;
use uuid::Uuid;

use crate::generation::ids::unix_time;
use crate::generation::reply::Delivery;
use crate::generation::usage::UsageBody;

/// What is the same in all chunks of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    /// Answers to each prompt.
    each: NonZeroUsize,
    /// Whether chunks carry `usage`, null in all but the last.
    include_usage: bool,
}

impl Head {
    /// A new answer's head; `prefix` tells the kind of answer.
    pub(crate) fn new(prefix: &str, model: &str, each: NonZeroUsize, delivery: Delivery) -> Self {
        Self {
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created: unix_time(),
            model: model.to_owned(),
            each,
            include_usage: matches!(delivery, Delivery::Stream { include_usage: true }),
        }
    }

    /// Whether a last chunk reports the usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// What answers cost together.
    pub(crate) fn usage(&self, usages: &[Usage]) -> Option<UsageBody> {
        UsageBody::of(usages, self.each)
    }

    /// `usage` of a chunk: absent unless asked for, and null before the last chunk.
    pub(crate) fn chunk_usage(&self, usage: Option<UsageBody>) -> Option<Option<UsageBody>> {
        self.include_usage.then_some(usage)
    }
}
