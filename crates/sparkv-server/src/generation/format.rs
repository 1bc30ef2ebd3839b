//! The language that an answer is to be in, from all the fields that may ask for one.

use serde_json::{Value, json};
use sparkv_engine::OutputFormat;

use crate::error::ApiError;
use crate::generation::fields::{FormatFields, StructuredOutputs};

const RESPONSE_FORMAT: &str = "response_format";

/// A format, and the field that asked for it.
#[derive(Debug)]
pub(crate) struct AskedFormat {
    pub(crate) format: OutputFormat,
    pub(crate) param: &'static str,
}

/// The format that a body asks for, if any.
///
/// # Errors
/// If a field is not what it should be, or two fields ask.
pub(crate) fn check(fields: FormatFields) -> Result<Option<AskedFormat>, ApiError> {
    let FormatFields {
        response_format,
        structured_outputs,
        guided_json,
        guided_regex,
        guided_choice,
        guided_grammar,
    } = fields;
    let mut asked = Vec::new();
    let mut ask = |param: &'static str, format: Option<OutputFormat>| {
        asked.extend(format.map(|format| AskedFormat { format, param }));
    };
    let response = |format| check_response(RESPONSE_FORMAT, format, Place::Nested);
    ask(RESPONSE_FORMAT, response_format.map(response).transpose()?.flatten());
    ask("structured_outputs", structured_outputs.map(structured).transpose()?);
    ask("guided_json", guided_json.map(|json| schema("guided_json", json)).transpose()?);
    ask("guided_regex", guided_regex.map(OutputFormat::Regex));
    ask("guided_choice", guided_choice.map(|texts| choice("guided_choice", texts)).transpose()?);
    ask("guided_grammar", guided_grammar.map(OutputFormat::Lark));
    match asked.as_slice() {
        [_, second, ..] => Err(ApiError::invalid(second.param, "only one field can ask for a format")),
        _ => Ok(asked.pop()),
    }
}

/// Where a schema's name and the schema are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a field `json_schema`, as chats have it.
    Nested,
    /// Beside the type, as responses have it.
    Beside,
}

/// OpenAI's field, found at `path`, with `regex` and `lark` beside its types.
///
/// # Errors
/// If it is not what it should be.
pub(crate) fn check_response(
    path: &str,
    format: Value,
    place: Place,
) -> Result<Option<OutputFormat>, ApiError> {
    let invalid = |field: &str, message: &str| {
        let dot = if field.is_empty() { "" } else { "." };
        ApiError::invalid(format!("{path}{dot}{field}"), message)
    };
    let Some(fields) = format.as_object() else {
        return Err(invalid("", r#"must be an object, such as {"type": "json_object"}"#));
    };
    let kind = fields.get("type").and_then(Value::as_str).ok_or_else(|| invalid("type", "is required"))?;
    let own = match kind {
        "json_schema" if place == Place::Beside => {
            let fields = fields.iter().filter(|(name, _)| *name != "type");
            return json_schema(path, fields).map(Some);
        }
        "text" | "json_object" => "type",
        kind @ ("json_schema" | "regex" | "lark") => kind,
        _ => return Err(invalid("type", "must be text, json_object, json_schema, regex or lark")),
    };
    if let Some(other) = fields.keys().find(|name| *name != "type" && *name != own) {
        return Err(ApiError::UnknownField { param: format!("{path}.{other}") });
    }
    let text = || {
        let text = fields.get(own).and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| invalid(own, "must be a string"))
    };
    match kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(any_object())),
        "regex" => Ok(Some(OutputFormat::Regex(text()?))),
        "lark" => Ok(Some(OutputFormat::Lark(text()?))),
        _ => match fields.get(own).and_then(Value::as_object) {
            Some(fields) => json_schema(&format!("{path}.{own}"), fields.iter()).map(Some),
            None => Err(invalid(own, r#"must be an object, such as {"name": "..", "schema": {..}}"#)),
        },
    }
}

/// `{"name", "schema", "strict", "description"}`; all answers keep to the schema, though as far as can be only
/// if it is not strict.
fn json_schema<'a>(
    path: &str,
    fields: impl Iterator<Item = (&'a String, &'a Value)>,
) -> Result<OutputFormat, ApiError> {
    let (mut named, mut schema, mut strict) = (false, None, false);
    for (name, value) in fields {
        let right = match name.as_str() {
            "name" => {
                named = true;
                value.is_string()
            }
            "description" => value.is_string() || value.is_null(),
            "strict" => {
                strict = value == true;
                value.is_boolean() || value.is_null()
            }
            "schema" => {
                schema = Some(value);
                true
            }
            _ => return Err(ApiError::UnknownField { param: format!("{path}.{name}") }),
        };
        if !right {
            return Err(ApiError::invalid(format!("{path}.{name}"), "has another type"));
        }
    }
    if !named {
        return Err(ApiError::invalid(format!("{path}.name"), "a schema has a name"));
    }
    match schema {
        Some(schema) if schema.is_object() => Ok(OutputFormat::JsonSchema { schema: schema.clone(), strict }),
        _ => Err(ApiError::invalid(format!("{path}.schema"), "must be a JSON schema, which is an object")),
    }
}

/// Any JSON object.
pub(crate) fn any_object() -> OutputFormat {
    OutputFormat::JsonSchema { schema: json!({ "type": "object" }), strict: true }
}

/// A schema, or its JSON as a string.
fn schema(param: &'static str, schema: Value) -> Result<OutputFormat, ApiError> {
    let schema = match schema {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| ApiError::invalid(param, format!("is not JSON: {error}")))?,
        schema => schema,
    };
    if !schema.is_object() {
        return Err(ApiError::invalid(param, "must be a JSON schema, which is an object"));
    }
    Ok(OutputFormat::JsonSchema { schema, strict: true })
}

fn choice(param: &'static str, texts: Vec<String>) -> Result<OutputFormat, ApiError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(ApiError::invalid(param, "must hold one or more texts, none of them empty"));
    }
    Ok(OutputFormat::Choice(texts))
}

fn structured(fields: StructuredOutputs) -> Result<OutputFormat, ApiError> {
    const PARAM: &str = "structured_outputs";
    let StructuredOutputs { json, regex, choice: texts, grammar, json_object } = fields;
    let asked = [
        json.map(|json| schema(PARAM, json)).transpose()?,
        regex.map(OutputFormat::Regex),
        texts.map(|texts| choice(PARAM, texts)).transpose()?,
        grammar.map(OutputFormat::Lark),
        json_object.filter(|wanted| *wanted).map(|_| any_object()),
    ];
    let mut asked = asked.into_iter().flatten();
    match (asked.next(), asked.next()) {
        (Some(format), None) => Ok(format),
        _ => Err(ApiError::invalid(PARAM, "must hold one of json, regex, choice, grammar and json_object")),
    }
}
