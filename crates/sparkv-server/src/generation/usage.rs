//! What requests cost, as they are told.

use std::num::NonZeroUsize;

use serde::Serialize;
use sparkv::KvUsage;
use sparkv_engine::Usage;
use utoipa::ToSchema;

use crate::schema::kv_cache;

/// What a request cost.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct UsageBody {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptTokensDetails,
    /// Absent as long as answers have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<kv_cache::KvUsage>)]
    pub(crate) kv_cache: Option<KvUsage>,
}

/// Where the tokens of a prompt came from.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Those that were not computed for this request.
    pub(crate) cached_tokens: usize,
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
            kv_cache: Some(kv_cache),
        })
    }

    /// The same of answers that go on; of each, the tokens of its prompt, and its own so far.
    pub(crate) fn so_far(counts: &[(usize, usize)], each: NonZeroUsize) -> Self {
        let prompt_tokens = counts.iter().step_by(each.get()).map(|(prompt, _)| prompt).sum();
        let completion_tokens = counts.iter().map(|(_, completion)| completion).sum();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails::default(),
            kv_cache: None,
        }
    }
}
