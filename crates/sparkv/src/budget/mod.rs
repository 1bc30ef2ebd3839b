//! Budgets: what a cache may cost (here), and which settings spend it best (`search`, by the tables in `calibration`).

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod calibration;
mod search;

pub use calibration::{Calibrations, MeasuredStep, calibration_table};

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

    /// `"25%"`, `"67108864"` or `"64MiB"`, with the units of [`ByteSize`].
    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is not a budget: use a share like \"25%\" or bytes like \"64MiB\"");
        let text = text.trim();
        if let Some(number) = text.strip_suffix('%') {
            return match number.trim_end().parse::<f64>().map_err(|_| expected())? {
                percent if percent > 0.0 && percent <= 100.0 => Ok(Budget::Share(percent / 100.0)),
                _ => Err(format!("a share must be above 0% and at most 100%, got {text}")),
            };
        }
        match text.parse() {
            Ok(ByteSize(0)) | Err(_) => Err(expected()),
            Ok(ByteSize(bytes)) => Ok(Budget::Bytes(bytes)),
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
}
