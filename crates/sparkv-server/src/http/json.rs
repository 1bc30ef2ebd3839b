//! JSON as it was sent: a field given twice is an error, at any depth, where a plain map would drop one of them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses one JSON object.
///
/// # Errors
/// If `text` is not JSON, not an object, or names a field twice.
pub(crate) fn parse_object(text: &str) -> serde_json::Result<Map<String, Value>> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let fields = parser.deserialize_map(Object(&Path::Top))?;
    parser.end()?;
    Ok(fields)
}

/// What the parser says of half a surrogate pair.
const LONE_SURROGATES: [&str; 2] = ["lone leading surrogate in hex escape", "unexpected end of hex escape"];

/// What is wrong with a text, in words that say what to look for.
pub(crate) fn fault(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = LONE_SURROGATES.iter().find_map(|said| message.strip_prefix(said));
    place.map_or(message.clone(), |place| {
        format!("a string has an escape of half a surrogate pair (\\ud800 to \\udfff) without the other half{place}")
    })
}

/// Floats are integers up to here without gaps: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Where in the body a value is.
enum Path<'a> {
    Top,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Field(Self::Top, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads the fields of an object.
struct Object<'a>(&'a Path<'a>);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = Path::Field(self.0, &name);
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("field `{path}` is given twice")));
            }
            let value = map.next_value_seed(Any(&path))?;
            fields.insert(name, value);
        }
        Ok(fields)
    }
}

/// Reads any value.
struct Any<'a>(&'a Path<'a>);

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // JSON has no other numbers.
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Any(&Path::Item(self.0, values.len())))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        Object(self.0).visit_map(map).map(Value::Object)
    }
}

/// A value whose whole numbers are integers, however they are written (`4.0`, `1e3`); `None` if they are already.
pub(crate) fn with_integers(value: &Value) -> Option<Value> {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0)?;
            // Beyond 2^53 a float says no integer in particular.
            (float.abs() <= MAX_EXACT).then(|| Value::from(float as i64))
        }
        Value::Array(items) => {
            let mut changed = None;
            for (index, item) in items.iter().enumerate() {
                if let Some(item) = with_integers(item) {
                    changed.get_or_insert_with(|| items.clone())[index] = item;
                }
            }
            changed.map(Value::Array)
        }
        Value::Object(fields) => {
            let mut changed = None;
            for (name, field) in fields {
                if let Some(field) = with_integers(field) {
                    changed.get_or_insert_with(|| fields.clone()).insert(name.clone(), field);
                }
            }
            changed.map(Value::Object)
        }
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_given_twice_is_named_at_any_depth() {
        for (text, field) in [
            (r#"{"a": 1, "a": 1}"#, "`a`"),
            (
                r#"{"kv_cache": {"pruning": {"key_ratio": 0.5, "key_ratio": 0}}}"#,
                "`kv_cache.pruning.key_ratio`",
            ),
            (r#"{"a": [0, [{"b": null, "\u0062": {}}]]}"#, "`a[1][0].b`"),
        ] {
            let error = parse_object(text).unwrap_err().to_string();
            assert!(error.contains(&format!("field {field} is given twice")), "{error}");
        }
    }

    #[test]
    fn everything_else_is_as_a_plain_parser_reads_it() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 0.5, 1e300, "\u00e9\ud83d\ude00", {"a": {}}], "b": []}"#;
        let fields = parse_object(text).unwrap();
        assert_eq!(Value::Object(fields), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn depth_is_bounded() {
        let text = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse_object(&text).unwrap_err().to_string().contains("recursion limit"));
    }
}
