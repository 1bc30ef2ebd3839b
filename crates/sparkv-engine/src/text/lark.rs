//! Parts of Lark grammars, as llguidance reads them.
use serde_json::{Value, json};

/// What may stand between two parts of a JSON text: a token in vain at the most.
const JSON_SPACE: &str = " ?";

/// A schema with what may stand between the parts of its texts.
pub(super) fn with_spacing(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let spacing = json!({ "whitespace_flexible": true, "whitespace_pattern": JSON_SPACE });
        fields.insert("x-guidance".to_owned(), spacing);
    }
    schema
}

/// A text as Lark quotes it, which is JSON's way.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
