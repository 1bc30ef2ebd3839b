//! JSON schemas as people write them, in terms that llguidance holds.
//!
//! What is changed here only narrows what a schema allows, so that an answer keeps to the schema as it was sent: objects
//! that list their properties have no others, alternatives that are told apart by a tag have the tag, and bounds of
//! numbers are moved inwards where llguidance does not keep to them (1.9: an exclusive whole bound is let through if the
//! other bound has the same whole part; whole bounds are read as 64-bit floats, and those of 19 digits overflow).
//! A schema that is not strict may be held less than it asks: what cannot be held of it is left out.
use serde_json::{Map, Value, json};

use super::lark::with_options;

/// Floats are exact up to here: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The first whole number that is too large: it has 19 digits.
const TOO_LARGE: i128 = 1_000_000_000_000_000_000;

/// Patterns of widespread libraries with assertions, which llguidance does not follow, and the same without.
const KNOWN_PATTERNS: [(&str, &str); 3] = [
    // pydantic's Decimal: a digit at least.
    (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", r"^[+-]?(\d+\.?\d*|\.\d+)$"),
    // zod's e-mail: no dot in front, none after another.
    (
        r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    ),
    (
        r"^(?!\.)(?!.*\.\.)([A-Z0-9_'+\-\.]*)[A-Z0-9_+-]@([A-Z0-9][A-Z0-9\-]*\.)+[A-Z]{2,}$",
        r"^([A-Z0-9_'+\-]+\.)*[A-Z0-9_'+\-]*[A-Z0-9_+\-]@([A-Z0-9][A-Z0-9\-]*\.)+[A-Z]{2,}$",
    ),
];

/// A schema as llguidance is to read it.
pub(super) fn prepared(mut schema: Value, strict: bool) -> Value {
    let mut document = Document { combines: false, strict, tags: Vec::new() };
    each_schema(&schema, &mut |fields| document.combines |= combines(fields));
    document.prepare(&mut schema);
    for (name, tag) in std::mem::take(&mut document.tags) {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&name) {
            require(fields, &tag);
        }
    }
    with_options(schema, strict)
}

/// A schema whose place is `place` within another one: its references lead there.
pub(super) fn moved(mut schema: Value, place: &str) -> Value {
    change_each_schema(&mut schema, &mut |fields| {
        if let Some(Value::String(reference)) = fields.get_mut("$ref")
            && let Some(pointer) = reference.strip_prefix('#')
        {
            *reference = format!("#{place}{pointer}");
        }
    });
    schema
}

/// What holds for all parts of a schema.
struct Document {
    /// Whether several schemas hold at once for one value, so that what one of them says nothing of is another's.
    combines: bool,
    strict: bool,
    /// Definitions, by their pointers, that have to have a property, and its name.
    tags: Vec<(String, String)>,
}

impl Document {
    fn prepare(&mut self, schema: &mut Value) {
        let root = schema.clone();
        change_each_schema(schema, &mut |fields| {
            self.tell_apart(fields, &root);
            self.close(fields);
            self.bound(fields);
            self.rewrite_pattern(fields);
        });
    }

    /// Objects that list properties and say nothing of others have no others: a small model would invent some until it is
    /// cut off.
    fn close(&self, fields: &mut Map<String, Value>) {
        let says_more = ["additionalProperties", "patternProperties", "unevaluatedProperties"];
        if !self.combines
            && fields.contains_key("properties")
            && !says_more.iter().any(|key| fields.contains_key(*key))
        {
            fields.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
    }

    /// One of several that have different constants for one property is any of them that has the property.
    fn tell_apart(&mut self, fields: &mut Map<String, Value>, root: &Value) {
        let Some(Value::Array(options)) = fields.get_mut("oneOf") else { return };
        let Some(tag) = tag_of(options, root) else { return };
        for option in options.iter_mut() {
            match pointer(option) {
                Some(pointer) => self.tags.push((pointer, tag.clone())),
                None => {
                    if let Some(option) = option.as_object_mut() {
                        require(option, &tag);
                    }
                }
            }
        }
        if !fields.contains_key("anyOf")
            && let Some(options) = fields.remove("oneOf")
        {
            fields.insert("anyOf".to_owned(), options);
            fields.remove("discriminator");
        }
    }

    fn bound(&self, fields: &mut Map<String, Value>) {
        let is_whole = fields.get("type") == Some(&json!("integer"));
        for (key, sign) in
            [("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)]
        {
            if let Some(bound) =
                fields.get(key).filter(|bound| bound.is_number()).and_then(|bound| inward(bound, sign))
            {
                fields.insert(key.to_owned(), bound);
            }
        }
        if is_whole {
            return;
        }
        let number = |key: &str| fields.get(key).and_then(Value::as_f64);
        let smallest = |keys: [&str; 2]| keys.into_iter().filter_map(number).reduce(f64::min);
        let largest = |keys: [&str; 2]| keys.into_iter().filter_map(number).reduce(f64::max);
        let above = smallest(["maximum", "exclusiveMaximum"]);
        let below = largest(["minimum", "exclusiveMinimum"]);
        // What the other bound leaves, at the least.
        let moved = |bound: Option<f64>, other: Option<f64>, sign: f64| {
            let bound = bound.filter(|bound| bound.fract() == 0.0 && bound * sign >= 0.0)?;
            let room = other.map(|other| (other - bound) * sign);
            let room = if self.combines { room.unwrap_or(1.0).min(1.0) } else { room? };
            let step = || sign * 10f64.powf((room / 1000.0).log10().floor());
            (0.0 < room && room <= 1.0).then(|| match bound + step() {
                // Where floats are further apart than that.
                same if same == bound && sign > 0.0 => bound.next_up(),
                same if same == bound => bound.next_down(),
                moved => moved,
            })
        };
        let minimum = moved(number("exclusiveMinimum"), above, 1.0);
        let maximum = moved(number("exclusiveMaximum"), below, -1.0);
        for (key, replaced, bound) in
            [("minimum", "exclusiveMinimum", minimum), ("maximum", "exclusiveMaximum", maximum)]
        {
            if let Some(bound) = bound {
                fields.remove(replaced);
                fields.insert(key.to_owned(), json!(bound));
            }
        }
    }

    fn rewrite_pattern(&self, fields: &mut Map<String, Value>) {
        let Some(pattern) = fields.get("pattern").and_then(Value::as_str) else { return };
        if let Some((_, same)) = KNOWN_PATTERNS.iter().find(|(known, _)| *known == pattern) {
            fields.insert("pattern".to_owned(), json!(same));
        } else if !self.strict && has_assertion(pattern) {
            fields.remove("pattern");
        }
    }
}

/// A whole bound beyond 2^53, where floats are neither exact nor written exactly, moved inwards to one of 15 digits and
/// zeros; of 18 at most, since those of 19 overflow. `sign` is 1 for upper bounds, -1 for lower ones. `None` if it stays.
fn inward(bound: &Value, sign: i128) -> Option<Value> {
    let float = bound.as_f64().filter(|float| float.abs() >= EXACT)?;
    let exact = bound.as_i64().map(i128::from).or(bound.as_u64().map(i128::from)).unwrap_or(float as i128);
    if exact * sign >= TOO_LARGE {
        return Some(json!((sign * (TOO_LARGE - 1000)) as i64));
    }
    let digits = exact.unsigned_abs().ilog10();
    let unit = 10i128.pow(digits.saturating_sub(14));
    // Rounded down for upper bounds, up for lower ones.
    let rounded = (exact * sign).div_euclid(unit) * unit * sign;
    i64::try_from(rounded).ok().map(Value::from)
}

/// Whether a pattern looks ahead or behind, or back at what it found.
fn has_assertion(pattern: &str) -> bool {
    ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|assertion| pattern.contains(assertion))
        || (1..=9).any(|group| pattern.contains(&format!("\\{group}")))
}

/// The property that tells schemas apart: each has another constant for it.
fn tag_of(options: &[Value], root: &Value) -> Option<String> {
    let resolved: Vec<&Map<String, Value>> = options
        .iter()
        .map(|option| match pointer(option) {
            Some(pointer) => root.pointer(&pointer)?.as_object(),
            None => option.as_object(),
        })
        .collect::<Option<_>>()?;
    let names = resolved.first()?.get("properties")?.as_object()?.keys();
    let tells_apart = |name: &&String| {
        let mut seen = Vec::new();
        resolved.iter().all(|option| {
            let constants =
                option.get("properties").and_then(|properties| constants(properties.get(name.as_str())?));
            constants.is_some_and(|constants| {
                let is_new = constants.iter().all(|constant| !seen.contains(constant));
                seen.extend(constants);
                is_new
            })
        })
    };
    names.into_iter().find(tells_apart).cloned()
}

/// What a property can only be.
fn constants(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(constant), _) => Some(vec![constant.clone()]),
        (None, Some(Value::Array(constants))) if !constants.is_empty() => Some(constants.clone()),
        _ => None,
    }
}

/// Where a reference within the schema leads, if it is nothing else.
fn pointer(schema: &Value) -> Option<String> {
    let fields = schema.as_object()?;
    let reference = fields.get("$ref")?.as_str()?;
    reference.strip_prefix('#').filter(|_| fields.len() == 1).map(str::to_owned)
}

fn require(fields: &mut Map<String, Value>, name: &str) {
    let required = fields.entry("required").or_insert_with(|| json!([]));
    if let Value::Array(names) = required
        && !names.iter().any(|required| required == name)
    {
        names.push(json!(name));
    }
}

/// Whether a value has to keep to several schemas here.
fn combines(fields: &Map<String, Value>) -> bool {
    let several = |key: &str| matches!(fields.get(key), Some(Value::Array(schemas)) if schemas.len() > 1);
    let asks = |key: &&String| {
        ["properties", "required", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
            .contains(&key.as_str())
    };
    let in_place = ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|key| fields.contains_key(*key));
    several("allOf") || (in_place && fields.keys().any(|key| asks(&key)))
}

/// Keywords whose values are schemas, lists of schemas, or schemas by name.
const HOLDING_ONE: [&str; 11] = [
    "additionalProperties",
    "items",
    "additionalItems",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
];
const HOLDING_LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const HOLDING_NAMED: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// The schemas within a schema.
fn within<'a>(key: &str, value: &'a mut Value) -> Vec<&'a mut Value> {
    if value.is_object() && HOLDING_ONE.contains(&key) {
        return vec![value];
    }
    match value {
        Value::Object(named) if HOLDING_NAMED.contains(&key) => named.values_mut().collect(),
        Value::Array(list) if HOLDING_LISTS.contains(&key) => list.iter_mut().collect(),
        _ => Vec::new(),
    }
}

/// Goes through a schema and all within it.
fn change_each_schema(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    change(fields);
    for (key, value) in fields.iter_mut() {
        within(key, value).into_iter().for_each(|schema| change_each_schema(schema, change));
    }
}

/// The same, to look only.
fn each_schema(schema: &Value, look: &mut impl FnMut(&Map<String, Value>)) {
    change_each_schema(&mut schema.clone(), &mut |fields| look(fields));
}

#[cfg(test)]
mod tests {
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
        let schema = json!({ "type": "object", "properties": { "a": { "type": "object", "properties": { "b": {} } } } });
        keeps(&schema, true, &["{}", r#"{"a": {"b": 1}}"#], &[r#"{"c": 1}"#, r#"{"a": {"c": 1}}"#]);
        let open = json!({ "type": "object", "properties": { "a": {} }, "additionalProperties": true });
        keeps(&open, true, &[r#"{"c": 1}"#], &[]);
        keeps(&json!({ "type": "object" }), true, &[r#"{"c": 1}"#], &[]);
        // What one says nothing of is another's.
        let both = json!({ "allOf": [{ "type": "object", "properties": { "a": {} } }, { "properties": { "b": {} } }] });
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
                    &[
                        r#"{"pet": {}}"#,
                        r#"{"pet": {"kind": "dog", "lives": 7}}"#,
                        r#"{"pet": {"kind": "cow"}}"#,
                    ],
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
            assert!(
                refused.to_string().to_lowercase().contains(&words.to_lowercase()),
                "{keyword}: {refused}"
            );
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
        let good =
            tool("g", json!({ "type": "object", "properties": { "a": { "type": "integer" } } }), false);
        let format = |strict, otherwise| OutputFormat::ToolCalls {
            tools: vec![tool("f", json!({ "type": "nonsense", "x": bad.clone() }), strict), good.clone()],
            otherwise,
            several: false,
        };
        assert!(Formats::compile(&format(true, Otherwise::Nothing)).is_err());
        let formats = Formats::compile(&format(false, Otherwise::Nothing)).unwrap();
        let call =
            |name: &str, arguments: &str| format!(r#"{{"name": "{name}", "parameters": {arguments}}}"#);
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
}
