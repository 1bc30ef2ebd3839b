//! JSON as model files hold it: written by Python, which also writes what JSON does not have.
use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::config::error::ConfigError;

/// What an editor may have put before a text, to say that it is UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What Python writes for numbers that JSON cannot say; the longer ones first.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads a JSON text.
///
/// # Errors
/// If it is no JSON, or a field is of the wrong type, which is named.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    let text = quoted(without_mark(text));
    let reader = &mut serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
        let field = error.path().to_string();
        let source = error.into_inner();
        match source.classify() {
            serde_json::error::Category::Data if field != "." => ConfigError::Field { field, source },
            _ => ConfigError::Json(source),
        }
    })?;
    reader.end()?;
    Ok(value)
}

/// `text` without a mark before it.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// `text` with Python's `NaN` and `Infinity` as strings: where nobody looks at them they do no harm, and a field that
/// must be a number is refused by what stands there.
fn quoted(text: &str) -> Cow<'_, str> {
    if !NO_NUMBERS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(letter) = rest.chars().next() {
        let word = NO_NUMBERS.into_iter().find(|word| !in_string && rest.starts_with(word));
        let length = match (letter, word) {
            (_, Some(word)) => {
                quoted.extend(["\"", word, "\""]);
                rest = rest.get(word.len()..).unwrap_or_default();
                continue;
            }
            // What is escaped does not end the string.
            ('\\', None) if in_string => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (letter, None) => {
                in_string ^= letter == '"';
                letter.len_utf8()
            }
        };
        let (piece, behind) = rest.split_at(length);
        quoted.push_str(piece);
        rest = behind;
    }
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn what_python_writes_is_read_and_strings_stay_as_they_are() {
        let text = "\u{feff}{\"a\": [0.0, Infinity, -Infinity], \"b\": NaN, \"c\": \"NaN \\\" -Infinity \\\\\", \"NaN\": 1}";
        let expected = json!({
            "a": [0.0, "Infinity", "-Infinity"], "b": "NaN", "c": "NaN \" -Infinity \\", "NaN": 1,
        });
        assert_eq!(read::<Value>(text).unwrap(), expected);
    }

    #[test]
    fn what_stands_behind_the_value_is_an_error() {
        assert!(read::<Value>("{} {}").is_err());
        assert!(read::<Value>("{}\n").is_ok());
    }

    proptest! {
        #[test]
        fn any_json_is_read_as_it_is(strings in prop::collection::vec("(NaN|-?Infinity|\\PC|[\"\\\\é\n]){0,6}", 0..6)) {
            let value = json!({"NaN": strings, "more": [1.5, null, true]});
            prop_assert_eq!(read::<Value>(&value.to_string()).unwrap(), value);
        }
    }
}
