//! Parts of Lark grammars, as llguidance reads them.
use serde_json::{Value, json};

/// What may stand between two parts of a JSON text: a token in vain at the most.
const JSON_SPACE: &str = " ?";

/// A schema with how llguidance is to take it: what may stand between the parts of its texts, and, if it is not strict,
/// that what cannot be held is left out.
pub(super) fn with_options(mut schema: Value, strict: bool) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let options = json!({
            "whitespace_flexible": true,
            "whitespace_pattern": JSON_SPACE,
            "lenient": !strict,
            "coerce_one_of": !strict,
        });
        fields.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// A text as Lark quotes it, which is JSON's way.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
