//! Budgets: what a cache may cost, and which settings spend it best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::plan::{CachePlan, KvShape};
use crate::settings::{
    CUSTOM, DEFAULT_SINKS, DEFAULT_WINDOW, Eviction, Keep, KvChoice, KvSettings, Precision, QueryStatistic,
    SettingsError,
};

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

impl Budget {
    fn bytes(self, dense_bytes: u64) -> u64 {
        match self {
            Budget::Share(share) => (dense_bytes as f64 * share).round() as u64,
            Budget::Bytes(bytes) => bytes,
        }
    }
}

/// Ways to keep every token, from the most faithful to the cheapest: precision, ratio pruned of keys and
/// values. Ordered by hand; the cheapest is then combined with eviction.
const LADDER: [(Precision, f64); 4] =
    [(Precision::F16, 0.0), (Precision::Int8, 0.0), (Precision::Int8, 0.5), (Precision::Int8, 0.75)];

fn rung((precision, ratio): (Precision, f64), eviction: Eviction) -> KvSettings {
    KvSettings {
        preset: CUSTOM.to_owned(),
        eviction,
        key_ratio: ratio,
        value_ratio: ratio,
        query_statistic: QueryStatistic::default(),
        precision,
        window: DEFAULT_WINDOW,
        sinks: DEFAULT_SINKS,
    }
}

impl KvSettings {
    /// Bytes that the cache of a sequence holds under these settings once `new_tokens` followed a prompt of
    /// `prompt_tokens`. Exact, not an estimate.
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn cache_bytes(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<u64, SettingsError> {
        Ok(CachePlan::new(*shape, None, self, prompt_tokens)?.bytes_after(new_tokens))
    }
}

impl KvChoice {
    /// The settings for a prompt of `prompt_tokens` followed by at most `new_tokens`: those that were asked
    /// for, or the most faithful ones of which the cache stays within the budget. A share is one of the
    /// dense f16 bytes of prompt and completion together.
    ///
    /// # Errors
    /// If no settings meet the budget; the message says what the least is.
    pub fn settings(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<KvSettings, SettingsError> {
        let budget = match self {
            KvChoice::Fixed(settings) => return Ok(settings.clone()),
            KvChoice::Budget(budget) => *budget,
        };
        if budget == Budget::Share(1.0) {
            return Ok(rung(LADDER[0], Eviction::None));
        }
        let budget = budget.bytes(shape.dense_bytes(prompt_tokens + new_tokens));
        let cost = |settings: &KvSettings| settings.cache_bytes(shape, prompt_tokens, new_tokens);
        for step in LADDER {
            let settings = rung(step, Eviction::None);
            if cost(&settings)? <= budget {
                return Ok(settings);
            }
        }
        let cheapest = LADDER[LADDER.len() - 1];
        let evicting = |tokens| rung(cheapest, Eviction::SnapKv(Keep::Tokens(tokens)));
        let least = evicting(0).min_tokens();
        let need = cost(&evicting(least))?;
        if need > budget {
            let message = format!("{budget} bytes are too few: this request needs at least {need}");
            return Err(SettingsError::new("budget", message));
        }
        // The cost grows with the tokens kept: the most that fit, by bisection.
        let (mut fits, mut exceeds) = (least, prompt_tokens.max(least) + 1);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            if cost(&evicting(middle))? <= budget {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        Ok(evicting(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_most_faithful_settings_within_the_budget_are_chosen() {
        let shape = KvShape { layers: 4, query_heads: 4, kv_heads: 2, head_dim: 64 };
        let choose = |share| KvChoice::Budget(Budget::Share(share)).settings(&shape, 8000, 200);
        let ratios = |share| {
            let settings = choose(share).unwrap();
            (settings.precision(), settings.key_ratio(), settings.eviction() == Eviction::None)
        };
        assert_eq!(ratios(1.0), (Precision::F16, 0.0, true));
        assert_eq!(ratios(0.6), (Precision::Int8, 0.0, true));
        assert_eq!(ratios(0.4), (Precision::Int8, 0.5, true));
        assert_eq!(ratios(0.3), (Precision::Int8, 0.75, true));
        assert_eq!(ratios(0.1), (Precision::Int8, 0.75, false));
        let error = choose(0.001).unwrap_err();
        assert_eq!(error.param, "budget");
        assert!(error.message.contains("at least"), "{error}");
    }
}
