//! How many bits a stored value has.

use std::fmt;

use serde::de::{self, IntoDeserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Storage of rows that are not pruned. Of those that are, the kept channels are int8, or f32 where this is. Sinks,
/// window and the block that fills up behind it are f16 even where this is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes a value; for exactness tests.
    F32,
    /// 2 bytes a value.
    F16,
    /// 1 byte a value and one f16 scale a row.
    Int8,
    /// 6 bits a value and one f16 scale a row, of rows without the mean; in a domain of their own (see [`Allocation`]). So
    /// are those of fewer bits.
    Int6,
    /// 5 bits.
    Int5,
    /// 4 bits.
    Int4,
    /// 3 bits.
    Int3,
    /// 2 bits.
    Int2,
}

impl Precision {
    /// Bits of a value, where there are fewer than 8.
    pub(crate) fn few_bits(self) -> Option<u8> {
        match self {
            Self::F32 | Self::F16 | Self::Int8 => None,
            Self::Int6 => Some(6),
            Self::Int5 => Some(5),
            Self::Int4 => Some(4),
            Self::Int3 => Some(3),
            Self::Int2 => Some(2),
        }
    }

    /// Whether rows are stored as the prompt computes them.
    pub fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int6 => "int6",
            Self::Int5 => "int5",
            Self::Int4 => "int4",
            Self::Int3 => "int3",
            Self::Int2 => "int2",
        })
    }
}

/// Whether all channels of keys of fewer than 8 bits have as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// Channels get 0, 2, 4 or 6 bits, by how much the prompt's queries ask of them and how much they vary; as many in all
    /// as if all had the same.
    Query,
    /// All channels of a row that is rotated have as many.
    Uniform,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "query",
            Self::Uniform => "uniform",
        })
    }
}

impl Allocation {
    /// What is best for keys of a precision: up to 5 bits, what queries ask for; with 6, more than any channel gets would be
    /// wanted where it matters (`docs/quality.md` has the figures).
    pub(super) fn of(keys: Option<Precision>) -> Self {
        match keys {
            Some(Precision::Int6) => Self::Uniform,
            _ => Self::Query,
        }
    }
}

/// Wire form of `kv_cache.precision`: one for keys and values (`"int4"`), or one for each
/// (`{"keys": "int3", "values": "int4"}`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrecisionOptions {
    /// How keys are stored.
    pub keys: Option<Precision>,
    /// How values are stored.
    pub values: Option<Precision>,
}

impl From<Precision> for PrecisionOptions {
    fn from(precision: Precision) -> Self {
        Self { keys: Some(precision), values: Some(precision) }
    }
}

impl Serialize for PrecisionOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let (Some(keys), true) = (self.keys, self.keys == self.values) {
            return keys.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        for (name, precision) in [("keys", self.keys), ("values", self.values)] {
            if let Some(precision) = precision {
                map.serialize_entry(name, &precision)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PrecisionOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PrecisionVisitor)
    }
}

struct PrecisionVisitor;

impl<'de> Visitor<'de> for PrecisionVisitor {
    type Value = PrecisionOptions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a precision like \"int4\", or an object like {\"keys\": \"int3\", \"values\": \"int4\"}")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<PrecisionOptions, E> {
        Precision::deserialize(name.into_deserializer()).map(PrecisionOptions::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PrecisionOptions, A::Error> {
        let mut options = PrecisionOptions::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "keys" => options.keys = map.next_value()?,
                "values" => options.values = map.next_value()?,
                other => return Err(de::Error::unknown_field(other, &["keys", "values"])),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_both_or_one_for_each() {
        for (json, keys, values) in [
            (r#""int4""#, Some(Precision::Int4), Some(Precision::Int4)),
            (r#"{"keys":"int3","values":"int4"}"#, Some(Precision::Int3), Some(Precision::Int4)),
            (r#"{"values":"int8"}"#, None, Some(Precision::Int8)),
            (r#"{}"#, None, None),
        ] {
            let options: PrecisionOptions = serde_json::from_str(json).unwrap();
            assert_eq!(options, PrecisionOptions { keys, values });
            assert_eq!(serde_json::to_string(&options).unwrap(), json);
        }
        let same: PrecisionOptions = serde_json::from_str(r#"{"keys":"int3","values":"int3"}"#).unwrap();
        assert_eq!(serde_json::to_string(&same).unwrap(), r#""int3""#);
    }

    #[test]
    fn others_are_named() {
        for (json, reason) in [
            (r#""int7""#, "unknown variant `int7`, expected one of `f32`"),
            (r#"{"key":"int3"}"#, "unknown field `key`, expected `keys` or `values`"),
            ("4", "expected a precision like"),
        ] {
            let error = serde_json::from_str::<PrecisionOptions>(json).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(Precision::Int6.to_string(), "int6");
    }
}
