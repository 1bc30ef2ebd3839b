//! What answers of both generating endpoints carry besides their text.

use std::time::{SystemTime, UNIX_EPOCH};

use sparkv_engine::{FinishReason, Usage};
use uuid::Uuid;

use crate::common::types::{PromptTokensDetails, UsageBody};
use crate::reply::Delivery;

/// Changes with whatever may change answers, so that clients can tell why a seed gives another text.
pub(crate) const SYSTEM_FINGERPRINT: &str = concat!("sparkv-", env!("CARGO_PKG_VERSION"));

/// What is the same in all chunks of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    /// Whether chunks carry `usage`, null in all but the last.
    include_usage: bool,
}

impl Head {
    /// A new answer's head; `prefix` tells the kind of answer.
    pub(crate) fn new(prefix: &str, model: &str, delivery: Delivery) -> Self {
        Self {
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created: unix_time(),
            model: model.to_owned(),
            include_usage: matches!(delivery, Delivery::Stream { include_usage: true }),
        }
    }

    /// Whether a last chunk reports the usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// `usage` of a chunk: absent unless asked for, and null before the last chunk.
    pub(crate) fn chunk_usage(&self, usage: Option<UsageBody>) -> Option<Option<UsageBody>> {
        self.include_usage.then_some(usage)
    }
}

/// Seconds since 1970; 0 on a clock set before.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The API's name of a finish reason.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        let Usage { prompt_tokens, cached_tokens, completion_tokens, kv_cache } = usage;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            kv_cache,
        }
    }
}
