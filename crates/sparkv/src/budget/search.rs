//! The settings that spend a budget best.

use super::Budget;
use super::calibration::Calibration;
use crate::eviction::{Eviction, EvictionPolicy, Keep};
use crate::plan::{CachePlan, TOOTH};
use crate::settings::{KvChoice, KvSettings, SettingsError};
use crate::shape::KvShape;

/// A share never means less than this many dense tokens: below that there is little to save, and dropping
/// tokens to save it would be a bad bargain.
const SHARE_FLOOR: usize = 256;

/// A completion is expected to be no longer than its prompt, or than this. Should it get longer, and the budget
/// not allow that, the oldest tokens are dropped.
const EXPECTED_TOKENS: usize = 1024;

impl Budget {
    /// Bytes allowed at a length of `tokens`.
    fn limit(self, shape: &KvShape, tokens: usize) -> u64 {
        match self {
            Budget::Share(share) => {
                let bytes = (shape.dense_bytes(tokens) as f64 * share).floor() as u64;
                bytes.max(shape.dense_bytes(SHARE_FLOOR))
            }
            Budget::Bytes(bytes) => bytes,
        }
    }

    /// The length at which a share outgrows its floor.
    fn knee(self) -> usize {
        match self {
            Budget::Share(share) => (SHARE_FLOOR as f64 / share).ceil() as usize,
            Budget::Bytes(_) => 0,
        }
    }
}

/// `step`, with tokens dropped.
fn evicting(step: &KvSettings, policy: EvictionPolicy, keep: Keep) -> KvSettings {
    KvSettings { eviction: Some(Eviction { policy, keep }), ..step.clone() }
}

/// A request whose settings are sought: what is allowed, and for how many tokens.
struct Search<'a> {
    budget: Budget,
    table: &'a Calibration,
    shape: &'a KvShape,
    prompt_tokens: usize,
    new_tokens: usize,
}

impl Search<'_> {
    /// The most faithful settings within the budget.
    fn settings(&self) -> Result<KvSettings, SettingsError> {
        let table = self.table;
        let expected = self.new_tokens.min(self.prompt_tokens.max(EXPECTED_TOKENS));
        for step in table.steps() {
            if self.fits(step, self.new_tokens)? {
                return Ok(step.clone());
            }
            if self.fits(step, expected)?
                && let Some(settings) = self.most_tokens(step, EvictionPolicy::STREAMING)?
            {
                return Ok(settings);
            }
        }
        let cheapest = table.cheapest();
        // Where the prompt alone fits, what is too much is generated: the prompt need not be thinned for it.
        if !self.fits(cheapest, 0)?
            && let Some(settings) = self.most_tokens(cheapest, table.evict_prompt)?
        {
            return Ok(settings);
        }
        self.most_tokens(cheapest, EvictionPolicy::STREAMING)?.ok_or_else(|| {
            let message = format!(
                "too little for any cache of this model: a prompt of {} tokens and a completion of up to {} \
                 cannot stay within {}",
                self.prompt_tokens, self.new_tokens, self.budget
            );
            SettingsError::new("budget", message)
        })
    }

    /// The eviction that keeps the most tokens within the budget, if even the least does: by bisection, since
    /// the cost grows with the tokens kept.
    fn most_tokens(
        &self,
        step: &KvSettings,
        policy: EvictionPolicy,
    ) -> Result<Option<KvSettings>, SettingsError> {
        let keeping = |tokens| evicting(step, policy, Keep::Tokens(tokens));
        let least = keeping(0).min_tokens();
        if !self.fits(&keeping(least), self.new_tokens)? {
            return Ok(None);
        }
        let (mut fits, mut exceeds) = (least, (self.prompt_tokens + self.new_tokens).max(least) + 1);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            if self.fits(&keeping(middle), self.new_tokens)? {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        Ok(Some(keeping(fits)))
    }

    /// Whether the cache stays within the budget at every length up to `new_tokens` beyond the prompt. Between
    /// the lengths where something changes (prompt, end, the share's knee, a streaming bound) bytes and limit
    /// are lines with teeth as long as a store's growth, so that much on either side of each is looked at.
    fn fits(&self, settings: &KvSettings, new_tokens: usize) -> Result<bool, SettingsError> {
        let plan = CachePlan::new(*self.shape, settings, self.prompt_tokens).map_err(|error| {
            // What the search tried is not what the client sent.
            SettingsError::new("budget", format!("no settings for it: {}", error.message))
        })?;
        let bound = match settings.eviction {
            Some(Eviction { policy, keep: Keep::Tokens(tokens) }) if policy.holds_while_generating() => {
                tokens
            }
            _ => 0,
        };
        let ends = [0, self.prompt_tokens + new_tokens, self.budget.knee(), bound];
        let mut lengths = ends.into_iter().flat_map(|end| {
            let first = end.saturating_sub(TOOTH).max(self.prompt_tokens);
            let last = (end + TOOTH).max(self.prompt_tokens + TOOTH);
            first..=last.min(self.prompt_tokens + new_tokens)
        });
        Ok(lengths.all(|tokens| {
            plan.bytes_after(tokens - self.prompt_tokens) <= self.budget.limit(self.shape, tokens)
        }))
    }
}

impl KvChoice {
    /// The settings for a prompt of `prompt_tokens` followed by at most `new_tokens`: those that were asked
    /// for, or the most faithful ones whose cache stays within the budget at every length on the way. 100 %
    /// is the exact cache.
    ///
    /// # Errors
    /// If no settings meet the budget.
    pub fn settings(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<KvSettings, SettingsError> {
        match self {
            KvChoice::Fixed(settings) => Ok(settings.clone()),
            KvChoice::Budget(Budget::Share(1.0), tables) => Ok(tables.of(shape)?.exact.clone()),
            KvChoice::Budget(budget, tables) => {
                let table = tables.of(shape)?;
                Search { budget: *budget, table, shape, prompt_tokens, new_tokens }.settings()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Calibrations;
    use crate::settings::Precision;
    use crate::shape::AttentionConfig;

    fn budgeted(budget: Budget) -> KvChoice {
        KvChoice::Budget(budget, Calibrations::built_in().unwrap())
    }

    fn shape() -> KvShape {
        let attention =
            AttentionConfig { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, sliding_window: None };
        KvShape { layers: 4, attention }
    }

    #[test]
    fn the_most_faithful_settings_within_the_budget_are_chosen() {
        let choose = |share| budgeted(Budget::Share(share)).settings(&shape(), 8000, 200).unwrap();
        let form = |share| {
            let settings = choose(share);
            (settings.rows().join("/"), settings.eviction().is_none())
        };
        for (share, rows, all) in [
            (1.0, "f16/f16", true),
            (0.6, "int8/int8", true),
            (0.42, "int6 uniform/int6", true),
            (0.32, "int5 query/int4", true),
            (0.25, "int4 query/int3", true),
            (0.2, "int3 query/int2", true),
            (0.1, "int2 query/int2", false),
        ] {
            assert_eq!(form(share), (rows.to_owned(), all), "{share}");
        }
        let eviction = choose(0.1).eviction().unwrap();
        assert_eq!(eviction.policy.name(), "snapkv");
        assert!(matches!(eviction.keep, Keep::Tokens(1000..8000)), "{eviction:?}");
    }

    /// Room for a long completion that may never come costs the prompt nothing.
    #[test]
    fn completions_that_may_get_long_are_bounded_by_streaming() {
        let budget = budgeted(Budget::Bytes(shape().dense_bytes(4000)));
        let settings = budget.settings(&shape(), 500, 100_000).unwrap();
        assert_eq!((settings.key_precision(), settings.key_ratio()), (Precision::F16, 0.0));
        let eviction = settings.eviction().unwrap();
        assert_eq!(eviction.policy, EvictionPolicy::STREAMING);
        assert!(matches!(eviction.keep, Keep::Tokens(3800..=4000)), "{eviction:?}");
    }

    #[test]
    fn short_conversations_fit_any_share() {
        for share in [0.01, 0.1, 0.25, 0.5, 0.99] {
            for new_tokens in [1, 20, 4000] {
                let choice = budgeted(Budget::Share(share));
                let settings = choice.settings(&shape(), 20, new_tokens).unwrap();
                // The whole conversation of 120 tokens is held, as it is or packed.
                let kept = settings.eviction().map_or(usize::MAX, |eviction| eviction.keep.tokens(20, 0));
                assert!(kept >= 120, "{share} {new_tokens}: {settings:?}");
            }
        }
    }

    #[test]
    fn a_budget_that_holds_nothing_is_refused() {
        let error = budgeted(Budget::Bytes(1000)).settings(&shape(), 8000, 200).unwrap_err();
        assert_eq!(error.param, "budget");
        assert!(error.message.contains("8000 tokens"), "{error}");
    }

    #[test]
    fn budgets_on_sliding_windows_do_not_evict() {
        let mut shape = shape();
        shape.attention.sliding_window = Some(100);
        let choose = |share| budgeted(Budget::Share(share)).settings(&shape, 8000, 200);
        assert_eq!(choose(0.3).unwrap().eviction(), None);
        assert_eq!(choose(0.1).unwrap_err().param, "budget");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// At every length on the way, not only at the end.
        #[test]
        fn budgets_are_kept_at_every_length(
            share in 0.01f64..1.0, bytes in 100_000u64..20_000_000, by_share in any::<bool>(),
            prompt in 1usize..3000, new in 0usize..3000,
        ) {
            let budget = if by_share { Budget::Share(share) } else { Budget::Bytes(bytes) };
            let Ok(settings) = budgeted(budget).settings(&shape(), prompt, new) else {
                // Refused only where the least that could be held is too much.
                let tables = Calibrations::built_in().unwrap();
                let cheapest = tables.of(&shape()).unwrap().cheapest();
                let least = evicting(cheapest, EvictionPolicy::STREAMING, Keep::Tokens(68));
                let held = (0..=new.min(64)).map(|n| least.cache_bytes(&shape(), prompt, n).unwrap());
                prop_assert!(held.max() > Some(budget.limit(&shape(), prompt + new)), "{budget} {prompt} {new}");
                return Ok(());
            };
            for n in 0..=new {
                let held = settings.cache_bytes(&shape(), prompt, n).unwrap();
                let limit = budget.limit(&shape(), prompt + n);
                prop_assert!(held <= limit, "{budget}: {held} of {limit} at {prompt} + {n}: {settings:?}");
            }
        }
    }
}
