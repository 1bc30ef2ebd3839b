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
    each_schema(&mut schema, &mut |fields| document.combines |= combines(fields));
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
    each_schema(&mut schema, &mut |fields| {
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
        each_schema(schema, &mut |fields| {
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
        for (inclusive, exclusive, sign) in
            [("minimum", "exclusiveMinimum", -1), ("maximum", "exclusiveMaximum", 1)]
        {
            // (Before draft 6, a flag says that the other bound is exclusive.)
            let is_exclusive = fields.get(exclusive) == Some(&Value::Bool(true));
            let inner = fields.get(inclusive).and_then(|bound| inward(bound, sign, is_exclusive));
            if let Some(bound) = inner {
                fields.insert(inclusive.to_owned(), bound);
            }
            // One more than an exclusive bound is computed in floats, too.
            if let Some(bound) = fields.get(exclusive).and_then(|bound| inward(bound, sign, true)) {
                fields.remove(exclusive);
                let is_inside = |other: &Value| {
                    let further = |value: &Value| value.as_f64().map(|float| float * sign as f64);
                    further(other) <= further(&bound)
                };
                if !fields.get(inclusive).filter(|other| other.is_number()).is_some_and(is_inside) {
                    fields.insert(inclusive.to_owned(), bound);
                }
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
/// zeros, beside itself if it is `exclusive`; of 18 at most, since those of 19 overflow. `sign` is 1 for upper bounds, -1
/// for lower ones. `None` if it stays.
fn inward(bound: &Value, sign: i128, exclusive: bool) -> Option<Value> {
    let float = bound.as_f64().filter(|float| float.abs() >= EXACT)?;
    let exact = bound.as_i64().map(i128::from).or(bound.as_u64().map(i128::from)).unwrap_or(float as i128);
    if exact * sign >= TOO_LARGE {
        return Some(json!((sign * (TOO_LARGE - 1000)) as i64));
    }
    let digits = exact.unsigned_abs().ilog10();
    let unit = 10i128.pow(digits.saturating_sub(14));
    // Rounded down for upper bounds, up for lower ones.
    let rounded = ((exact * sign).div_euclid(unit) - i128::from(exclusive)) * unit * sign;
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
fn each_schema(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    change(fields);
    for (key, value) in fields.iter_mut() {
        within(key, value).into_iter().for_each(|schema| each_schema(schema, change));
    }
}

#[cfg(test)]
mod tests;
