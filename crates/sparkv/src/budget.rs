//! Budgets: what a cache may cost, and which settings spend it best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use sparkv_kernels::BLOCK;

use crate::calibration::Calibration;
use crate::eviction::STREAMING;
use crate::plan::{CachePlan, KvShape};
use crate::settings::{Eviction, EvictionPolicy, Keep, KvChoice, KvSettings, SettingsError};

/// What the cache may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// A share of the dense f16 bytes, in (0, 1].
    Share(f64),
    /// Bytes.
    Bytes(u64),
}

impl FromStr for Budget {
    type Err = String;

    /// `"25%"`, `"67108864"` or `"64MiB"` (KiB, MiB, GiB; KB, MB, GB).
    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is not a budget: use a share like \"25%\" or bytes like \"64MiB\"");
        let text = text.trim();
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = text[..text.len() - unit.len()].parse().map_err(|_| expected())?;
        let factor = match unit.trim() {
            "%" if number > 0.0 && number <= 100.0 => return Ok(Budget::Share(number / 100.0)),
            "%" => return Err(format!("a share must be above 0% and at most 100%, got {text}")),
            "" | "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1048576.0,
            "GiB" => 1073741824.0,
            "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return Err(expected()),
        };
        match number * factor {
            bytes if bytes >= 1.0 => Ok(Budget::Bytes(bytes as u64)),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Share(share) => write!(f, "{}%", share * 100.0),
            Budget::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Budget::Share(_) => serializer.collect_str(self),
            Budget::Bytes(bytes) => serializer.serialize_u64(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a budget: a share like \"25%\", or a positive number of bytes")]
        enum Wire {
            Bytes(u64),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Bytes(0) => Err(de::Error::custom("a budget of 0 bytes holds nothing")),
            Wire::Bytes(bytes) => Ok(Budget::Bytes(bytes)),
            Wire::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

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

/// The tokens after which what a cache holds has grown and shrunk again.
const TOOTH: usize = 2 * BLOCK;

/// `step`, with tokens dropped.
fn evicting(step: &KvSettings, eviction: Eviction) -> KvSettings {
    KvSettings { eviction, ..step.clone() }
}

impl KvSettings {
    /// Bytes that the cache of a sequence holds under these settings once `new_tokens` followed a prompt of
    /// `prompt_tokens`. Exact, not an estimate. (Not monotonic: a block of tokens shrinks when it is packed.)
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn cache_bytes(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<u64, SettingsError> {
        Ok(CachePlan::new(*shape, self, prompt_tokens)?.bytes_after(new_tokens))
    }

    /// The most bytes that the cache holds at any length up to `new_tokens` beyond a prompt of `prompt_tokens`.
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn most_bytes(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<u64, SettingsError> {
        let plan = CachePlan::new(*shape, self, prompt_tokens)?;
        // What is held grows, but for a tooth with every block of the tail.
        let lengths = (0..=new_tokens.min(TOOTH)).map(|n| new_tokens - n).chain([0]);
        Ok(lengths.map(|n| plan.bytes_after(n)).max().unwrap_or(0))
    }

    /// The most bytes that the cache holds while a prompt of `prompt_tokens` is computed layer by layer: what it
    /// is compressed to, and one layer as it was before.
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn prompt_bytes(&self, shape: &KvShape, prompt_tokens: usize) -> Result<u64, SettingsError> {
        Ok(CachePlan::new(*shape, self, prompt_tokens)?.prompt_bytes())
    }
}

/// A request whose settings are sought: what is allowed, and for how many tokens.
struct Search<'a> {
    budget: Budget,
    shape: &'a KvShape,
    prompt_tokens: usize,
    new_tokens: usize,
}

impl Search<'_> {
    /// The most faithful settings within the budget.
    fn settings(&self) -> Result<KvSettings, SettingsError> {
        let table = Calibration::built_in()?;
        let expected = self.new_tokens.min(self.prompt_tokens.max(EXPECTED_TOKENS));
        for step in table.steps() {
            if self.fits(step, self.new_tokens)? {
                return Ok(step.clone());
            }
            if self.fits(step, expected)?
                && let Some(settings) = self.most_tokens(step, STREAMING)?
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
        self.most_tokens(cheapest, STREAMING)?.ok_or_else(|| {
            let message = format!(
                "too little for any cache of this model: a prompt of {} tokens and a completion of up to {} \
                 cannot stay within {:?}",
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
        let keeping = |tokens| evicting(step, Eviction::By(policy, Keep::Tokens(tokens)));
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
            Eviction::By(policy, Keep::Tokens(tokens)) if policy.while_generating() => tokens,
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
            KvChoice::Budget(Budget::Share(1.0)) => Ok(Calibration::built_in()?.exact.clone()),
            KvChoice::Budget(budget) => {
                Search { budget: *budget, shape, prompt_tokens, new_tokens }.settings()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionConfig;
    use crate::settings::Precision;
    use proptest::prelude::*;

    fn budget(json: &str) -> Result<Budget, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn budgets_are_shares_or_bytes() {
        assert_eq!(budget(r#""25%""#).unwrap(), Budget::Share(0.25));
        assert_eq!(budget("4096").unwrap(), Budget::Bytes(4096));
        assert_eq!(budget(r#""1.5MiB""#).unwrap(), Budget::Bytes(1_572_864));
        assert_eq!(budget(r#""2 GB""#).unwrap(), Budget::Bytes(2_000_000_000));
        for wrong in
            ["-5", "0", "2.5", r#""-5%""#, r#""0%""#, r#""101%""#, r#""lots""#, r#""5 parsecs""#, r#""""#]
        {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets_survive_the_wire() {
        for text in [r#""25%""#, "4096"] {
            assert_eq!(serde_json::to_string(&budget(text).unwrap()).unwrap(), text);
        }
    }

    fn shape() -> KvShape {
        let attention =
            AttentionConfig { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, sliding_window: None };
        KvShape { layers: 4, attention }
    }

    #[test]
    fn the_most_faithful_settings_within_the_budget_are_chosen() {
        let choose = |share| KvChoice::Budget(Budget::Share(share)).settings(&shape(), 8000, 200).unwrap();
        let form = |share| {
            let settings = choose(share);
            (settings.precision(), settings.key_ratio(), settings.eviction() == Eviction::None)
        };
        assert_eq!(form(1.0), (Precision::F16, 0.0, true));
        assert_eq!(form(0.6), (Precision::Int8, 0.0, true));
        assert_eq!(form(0.42), (Precision::Int8, 0.5, true));
        assert_eq!(form(0.3), (Precision::Int8, 0.75, true));
        assert_eq!(form(0.27), (Precision::Int8, 0.8, true));
        assert_eq!(form(0.1), (Precision::Int8, 0.8, false));
        assert_eq!(choose(0.1).eviction().policy().name(), "snapkv");
        assert!(matches!(choose(0.1).eviction().keep(), Some(Keep::Tokens(1000..8000))));
    }

    /// Room for a long completion that may never come costs the prompt nothing.
    #[test]
    fn completions_that_may_get_long_are_bounded_by_streaming() {
        let budget = KvChoice::Budget(Budget::Bytes(shape().dense_bytes(4000)));
        let settings = budget.settings(&shape(), 500, 100_000).unwrap();
        assert_eq!((settings.precision(), settings.key_ratio()), (Precision::F16, 0.0));
        assert_eq!(settings.eviction().policy(), STREAMING);
        assert!(matches!(settings.eviction().keep(), Some(Keep::Tokens(3800..=4000))));
    }

    #[test]
    fn short_conversations_fit_any_share() {
        for share in [0.01, 0.1, 0.25, 0.5, 0.99] {
            for new_tokens in [1, 20, 4000] {
                let choice = KvChoice::Budget(Budget::Share(share));
                let settings = choice.settings(&shape(), 20, new_tokens).unwrap();
                // The whole conversation of 120 tokens is held, as it is or packed.
                let kept = settings.eviction().keep().map_or(usize::MAX, |keep| keep.tokens(20, 0));
                assert!(kept >= 120, "{share} {new_tokens}: {settings:?}");
            }
        }
    }

    #[test]
    fn a_budget_that_holds_nothing_is_refused() {
        let error = KvChoice::Budget(Budget::Bytes(1000)).settings(&shape(), 8000, 200).unwrap_err();
        assert_eq!(error.param, "budget");
        assert!(error.message.contains("8000 tokens"), "{error}");
    }

    #[test]
    fn budgets_on_sliding_windows_do_not_evict() {
        let mut shape = shape();
        shape.attention.sliding_window = Some(100);
        let choose = |share| KvChoice::Budget(Budget::Share(share)).settings(&shape, 8000, 200);
        assert_eq!(choose(0.3).unwrap().eviction(), Eviction::None);
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
            let Ok(settings) = KvChoice::Budget(budget).settings(&shape(), prompt, new) else {
                // Refused only where the least that could be held is too much.
                let cheapest = Calibration::built_in().unwrap().cheapest();
                let least = evicting(cheapest, Eviction::By(STREAMING, Keep::Tokens(68)));
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
