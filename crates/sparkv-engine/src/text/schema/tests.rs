use proptest::prelude::*;

use super::*;
use crate::{
    chat::Tool,
    request::{Otherwise, OutputFormat, RequestError},
    text::testing::{Formats, json_within},
};

fn compile(schema: Value, strict: bool) -> Result<Formats, RequestError> {
    Formats::compile(&OutputFormat::JsonSchema { schema, strict })
}

fn keeps(schema: &Value, strict: bool, allowed: &[&str], refused: &[&str]) {
    let formats = compile(schema.clone(), strict).unwrap_or_else(|error| panic!("{schema}: {error}"));
    for text in allowed {
        assert!(formats.accept(text), "{text} is refused by {schema}");
    }
    for text in refused {
        assert!(!formats.accept(text), "{text} is let through by {schema}");
    }
}

/// A number as people write bounds: few digits, often whole, sometimes huge.
fn bound() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-30i64..30).prop_map(Value::from),
        (-300i64..300).prop_map(|tenths| json!(tenths as f64 / 10.0)),
        (-300i64..300).prop_map(|hundredths| json!(hundredths as f64 / 100.0)),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u32..64).prop_map(|power| json!(1u64 << power)),
        (0u32..63, -2i64..3).prop_map(|(power, off)| json!(-(1i64 << power) + off)),
    ]
}

/// What `text` is, as exactly as it is compared: whole numbers to the last digit.
fn compare(text: &str, bound: &Value) -> std::cmp::Ordering {
    let whole = |text: &str| text.parse::<i128>().ok();
    match (whole(text), whole(&bound.to_string())) {
        (Some(value), Some(bound)) => value.cmp(&bound),
        _ => text.parse::<f64>().unwrap().total_cmp(&bound.as_f64().unwrap()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// No number beyond a bound is let through, whole or not, exclusive or not, however the bounds lie.
    #[test]
    fn numbers_keep_to_their_bounds(
        is_whole in any::<bool>(), lower in proptest::option::of(bound()), upper in proptest::option::of(bound()),
        exclusive in any::<[bool; 2]>(), more in prop::collection::vec(bound(), 4), apart in any::<bool>(),
    ) {
        let mut schema = json!({ "type": if is_whole { "integer" } else { "number" } });
        let mut other = schema.clone();
        if let Some(lower) = &lower {
            schema[if exclusive[0] { "exclusiveMinimum" } else { "minimum" }] = lower.clone();
        }
        if let Some(upper) = &upper {
            let place = if apart { &mut other } else { &mut schema };
            place[if exclusive[1] { "exclusiveMaximum" } else { "maximum" }] = upper.clone();
        }
        if apart {
            schema = json!({ "allOf": [schema, other] });
        }
        let Ok(formats) = compile(schema.clone(), true) else { return Ok(()) };
        let mut texts = Vec::new();
        for bound in [&lower, &upper].into_iter().flatten().chain(&more) {
            let float = bound.as_f64().unwrap();
            texts.extend([bound.to_string(), format!("{float:.1}"), format!("{:.2}", float + 0.01), format!("{:.3}", float - 0.001)]);
            if let Ok(whole) = bound.to_string().parse::<i128>() {
                texts.extend([whole - 1, whole + 1, whole].map(|whole| whole.to_string()));
                texts.push(format!("{whole}.0"));
                if whole == 0 {
                    texts.push("-0".to_owned());
                }
            }
        }
        for text in texts.iter().filter(|text| formats.accept(text)) {
            let inside = |bound: &Option<Value>, exclusive: bool, outside: std::cmp::Ordering| match bound {
                // -0 is 0, however floats are ordered.
                Some(bound) => match compare(if text == "-0" { "0" } else { text }, bound) {
                    std::cmp::Ordering::Equal => !exclusive,
                    order => order != outside,
                },
                None => true,
            };
            prop_assert!(inside(&lower, exclusive[0], std::cmp::Ordering::Less), "{text} {schema}");
            prop_assert!(inside(&upper, exclusive[1], std::cmp::Ordering::Greater), "{text} {schema}");
        }
    }

    /// What is well within the bounds is let through.
    #[test]
    fn numbers_within_are_let_through(low in -50i64..50, width in 2i64..40, exclusive in any::<[bool; 2]>(), at in 1i64..99) {
        let mut schema = json!({ "type": "number" });
        schema[if exclusive[0] { "exclusiveMinimum" } else { "minimum" }] = json!(low as f64 / 2.0);
        schema[if exclusive[1] { "exclusiveMaximum" } else { "maximum" }] = json!((low + width) as f64 / 2.0);
        let value = low as f64 / 2.0 + width as f64 / 2.0 * at as f64 / 100.0;
        let formats = compile(schema.clone(), true).unwrap();
        // (Zeros at the end are not let through everywhere.)
        let text = value.to_string();
        prop_assert!(formats.accept(&text), "{text} {schema}");
    }

    #[test]
    fn known_patterns_say_the_same_without_assertions(which in 0..3usize, text in "[a-cA-C0-2.+'@_-]{0,12}", domain in "(@a1-b\\.(c\\.)?AB|@AB\\.CDE)?") {
        let (known, same) = KNOWN_PATTERNS[which];
        let text = text + &domain;
        let matches = |pattern: &str| fancy_regex::Regex::new(pattern).unwrap().is_match(&text).unwrap();
        prop_assert_eq!(matches(known), matches(same), "{}", text);
    }
}

#[test]
fn wide_bounds_are_no_reason_to_refuse() {
    for (minimum, maximum) in [
        (json!(0), json!(u64::MAX)),
        (json!(i64::MIN), json!(i64::MAX)),
        (json!(-9_007_199_254_740_991i64), json!(9_007_199_254_740_991i64)),
        (json!(0), json!(1e30)),
    ] {
        let schema = json!({ "type": "integer", "minimum": minimum, "maximum": maximum });
        keeps(&schema, true, &["0", "42", "900719925474099"], &["0.5", "99999999999999999999"]);
    }
}

#[test]
fn objects_that_list_their_properties_have_no_others() {
    let schema =
        json!({ "type": "object", "properties": { "a": { "type": "object", "properties": { "b": {} } } } });
    keeps(&schema, true, &["{}", r#"{"a": {"b": 1}}"#], &[r#"{"c": 1}"#, r#"{"a": {"c": 1}}"#]);
    let open = json!({ "type": "object", "properties": { "a": {} }, "additionalProperties": true });
    keeps(&open, true, &[r#"{"c": 1}"#], &[]);
    keeps(&json!({ "type": "object" }), true, &[r#"{"c": 1}"#], &[]);
    // What one says nothing of is another's.
    let both =
        json!({ "allOf": [{ "type": "object", "properties": { "a": {} } }, { "properties": { "b": {} } }] });
    keeps(&both, true, &[r#"{"a": 1, "b": 2}"#], &[]);
}

/// As pydantic (2.14) writes them: the tag has a default, so that it is not required.
#[test]
fn discriminated_unions_are_held() {
    let animal = |kind: &str, more: &str| {
        json!({ "type": "object", "properties": { "kind": { "const": kind, "default": kind, "type": "string" },
            (more): { "type": "integer" } } })
    };
    let union = |options: Value| {
        json!({ "$defs": { "Cat": animal("cat", "lives"), "Dog": animal("dog", "tricks") }, "type": "object",
            "properties": { "pet": { "oneOf": options, "title": "Pet" } }, "required": ["pet"] })
    };
    let mut mapped = union(json!([{ "$ref": "#/$defs/Cat" }, { "$ref": "#/$defs/Dog" }]));
    mapped["properties"]["pet"]["discriminator"] =
        json!({ "propertyName": "kind", "mapping": { "cat": "#/$defs/Cat", "dog": "#/$defs/Dog" } });
    let inline = union(json!([animal("cat", "lives"), animal("dog", "tricks")]));
    for schema in [mapped, inline] {
        for strict in [true, false] {
            keeps(
                &schema,
                strict,
                &[r#"{"pet": {"kind": "cat", "lives": 7}}"#, r#"{"pet": {"kind": "dog"}}"#],
                &[r#"{"pet": {}}"#, r#"{"pet": {"kind": "dog", "lives": 7}}"#, r#"{"pet": {"kind": "cow"}}"#],
            );
        }
    }
}

/// What cannot be held is named where it must be, and left out where it need not.
#[test]
fn what_cannot_be_held_is_refused_by_keyword_or_left_out() {
    for (keyword, schema) in [
        ("uniqueItems", json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true })),
        (
            "oneOf",
            json!({ "oneOf": [{ "type": "object", "properties": { "a": {} } }, { "type": "object", "properties": { "b": {} } }] }),
        ),
        ("pattern", json!({ "type": "string", "pattern": "^(?=.*[0-9]).{3,}$" })),
        ("format", json!({ "type": "string", "format": "phone" })),
        ("not", json!({ "type": "string", "not": { "const": "a" } })),
        ("propertyNames", json!({ "type": "object", "propertyNames": { "pattern": "^a" } })),
    ] {
        let whole = json!({ "type": "object", "properties": { "x": schema, "y": { "type": "integer" } }, "required": ["y"] });
        let refused =
            compile(whole.clone(), true).err().unwrap_or_else(|| panic!("{keyword} is not refused"));
        let words = if keyword == "pattern" { "regex" } else { keyword };
        assert!(refused.to_string().to_lowercase().contains(&words.to_lowercase()), "{keyword}: {refused}");
        keeps(&whole, false, &[r#"{"y": 3}"#], &[r#"{"y": "a"}"#]);
    }
}

/// In an answer that may be a call or something else, references still lead to what they meant.
#[test]
fn a_schema_can_be_part_of_another() {
    let schema = json!({ "$defs": { "A": { "type": "integer" } }, "type": "object",
        "properties": { "a": { "$ref": "#/$defs/A" }, "again": { "$ref": "#" } } });
    let whole = json!({ "type": "object", "properties": { "x": moved(schema, "/properties/x") } });
    let deep = r#"{"x": {"a": 1, "again": {"a": 2}}}"#;
    keeps(&whole, true, &[deep], &[r#"{"x": {"a": "b"}}"#, r#"{"x": {"again": {"x": {}}}}"#]);
}

#[test]
fn a_tool_that_cannot_be_held_takes_any_arguments() {
    let bad = json!({ "type": "object", "properties": { "a": { "type": "integer", "multipleOf": -1 } } });
    let tool = |name: &str, parameters: Value, strict| Tool {
        name: name.to_owned(),
        description: None,
        parameters,
        strict,
    };
    let good = tool("g", json!({ "type": "object", "properties": { "a": { "type": "integer" } } }), false);
    let format = |strict, otherwise| OutputFormat::ToolCalls {
        tools: vec![tool("f", json!({ "type": "nonsense", "x": bad.clone() }), strict), good.clone()],
        otherwise,
        several: false,
    };
    assert!(Formats::compile(&format(true, Otherwise::Nothing)).is_err());
    let formats = Formats::compile(&format(false, Otherwise::Nothing)).unwrap();
    let call = |name: &str, arguments: &str| format!(r#"{{"name": "{name}", "parameters": {arguments}}}"#);
    assert!(formats.accept(&call("f", r#"{"b": [1]}"#)) && formats.accept(&call("g", r#"{"a": 1}"#)));
    assert!(!formats.accept(&call("g", r#"{"a": "b"}"#)) && !formats.accept("Hello"));
    // Or an answer in a format of its own.
    let schema = json!({ "type": "object", "properties": { "answer": { "type": "integer" } }, "required": ["answer"] });
    let formats = Formats::compile(&format(false, Otherwise::Json { schema, strict: true })).unwrap();
    assert!(formats.accept(&call("g", r#"{"a": 1}"#)) && formats.accept(r#"{"answer": 42}"#));
    assert!(!formats.accept(r#"{"answer": "b"}"#) && !formats.accept("Hello"));
}

proptest! {
    /// Whatever a client sends is compiled or refused.
    #[test]
    fn any_schema_does_no_harm(schema in json_within(3)) {
        for strict in [true, false] {
            let _ = compile(json!({ "type": "object", "properties": { "a": schema.clone() } }), strict);
            let _ = compile(schema.clone(), strict);
        }
    }
}
