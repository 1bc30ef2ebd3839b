//! What answers of generating endpoints carry besides their text.

use std::num::NonZeroUsize;
use std::time::{SystemTime, UNIX_EPOCH};

use sparkv::KvUsage;
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

/// A new id, of the form that most of OpenAI's and Anthropic's objects have; `prefix` tells the kind of object.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

/// A new id of a call. Nine letters and digits: templates of Mistral's refuse others when the call comes back as history.
pub(crate) fn call_id() -> String {
    Uuid::new_v4().simple().to_string().chars().take(9).collect()
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

impl UsageBody {
    /// What answers cost together, `each` of them to one prompt, which counts once.
    pub(crate) fn of(usages: &[Usage], each: NonZeroUsize) -> Option<Self> {
        let of_prompts = || usages.iter().step_by(each.get());
        let prompt_tokens = of_prompts().map(|usage| usage.prompt_tokens).sum();
        let completion_tokens: usize = usages.iter().map(|usage| usage.completion_tokens).sum();
        let cached_tokens = of_prompts().map(|usage| usage.cached_tokens).sum();
        let mut kv_cache = usages.first()?.kv_cache.clone();
        // What each answer's cache held, prefixes that they share included.
        for usage in &usages[1..] {
            let tokens = |kv: &KvUsage| kv.bytes as f64 / kv.bytes_per_token.max(f64::MIN_POSITIVE);
            let all_tokens = tokens(&kv_cache) + tokens(&usage.kv_cache);
            kv_cache.kept_tokens += usage.kv_cache.kept_tokens;
            kv_cache.bytes += usage.kv_cache.bytes;
            kv_cache.dense_bytes += usage.kv_cache.dense_bytes;
            kv_cache.bytes_per_token = kv_cache.bytes as f64 / all_tokens;
        }
        kv_cache.prompt_tokens = prompt_tokens;
        Some(Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            kv_cache,
        })
    }
}
