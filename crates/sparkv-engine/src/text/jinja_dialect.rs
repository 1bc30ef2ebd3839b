//! What transformers' Jinja has and minijinja does not, in words that it has: `{% generation %}` blocks, which mark what an
//! assistant says for training, and Python's `"..." % values`.

/// A template in minijinja's dialect.
pub(super) fn translated(source: &str) -> String {
    let mut translated = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((at, open, close)) = next_tag(rest) {
        translated.push_str(&rest[..at]);
        let length = tag_length(&rest[at..], open, close);
        let tag = &rest[at..at + length];
        match open {
            "{#" => translated.push_str(tag),
            _ => translated.push_str(&formatted(&without_generation(tag))),
        }
        rest = &rest[at + length..];
    }
    translated.push_str(rest);
    translated
}

/// Where the next tag begins, how, and what ends it.
fn next_tag(source: &str) -> Option<(usize, &'static str, &'static str)> {
    let kinds = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];
    let found = kinds.iter().filter_map(|&(open, close)| Some((source.find(open)?, open, close)));
    found.min_by_key(|(at, ..)| *at)
}

/// Bytes of the tag that `source` begins with; all of it if it does not end. Strings may hold what looks like the end.
fn tag_length(source: &str, open: &str, close: &str) -> usize {
    let mut at = open.len();
    while at < source.len() {
        let rest = &source[at..];
        if rest.starts_with(close) {
            return at + close.len();
        }
        at += match string_length(rest) {
            Some(length) if open != "{#" => length,
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    source.len()
}

/// Bytes of the string literal that `source` begins with, if it does.
fn string_length(source: &str) -> Option<usize> {
    let quote = source.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let mut escaped = false;
    for (at, letter) in source.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return Some(at + letter.len_utf8()),
            _ => {}
        }
    }
    None
}

/// A tag; the ends of a `generation` block become those of a block that is always rendered, with the same white space.
fn without_generation(tag: &str) -> String {
    let inner = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
    let name = inner.map(|inner| inner.trim_matches(['-', '+']).trim());
    match name {
        Some("generation") => tag.replacen("generation", "if true", 1),
        Some("endgeneration") => tag.replacen("endgeneration", "endif", 1),
        _ => tag.to_owned(),
    }
}

/// A tag in which `"..." % values` is `"..." | format(values)`.
fn formatted(tag: &str) -> String {
    let mut formatted = String::with_capacity(tag.len());
    let mut rest = tag;
    while !rest.is_empty() {
        let Some(length) = string_length(rest) else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            formatted.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        };
        formatted.push_str(&rest[..length]);
        rest = &rest[length..];
        let operator = rest.trim_start().strip_prefix('%').filter(|values| !values.starts_with('}'));
        if let Some(values) = operator.map(str::trim_start)
            && let Some(length) = operand_length(values)
        {
            let operand = &values[..length];
            let inner = operand.strip_prefix('(').and_then(|operand| operand.strip_suffix(')'));
            let is_all = inner.is_some() && bracket_length(operand) == Some(length);
            let values_within = if is_all { inner.unwrap_or(operand) } else { operand };
            formatted.push_str(&format!(" | format({values_within})"));
            rest = &values[length..];
        }
    }
    formatted
}

/// Bytes of the operand that `source` begins with: a bracketed expression, a string or a name, and what is asked of it.
fn operand_length(source: &str) -> Option<usize> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut at = bracket_length(source)
        .or_else(|| string_length(source))
        .unwrap_or_else(|| source.find(|letter| !is_name(letter)).unwrap_or(source.len()));
    if at == 0 {
        return None;
    }
    loop {
        let rest = &source[at..];
        at += match rest.chars().next() {
            Some('(' | '[') => bracket_length(rest)?,
            Some('.') => 1 + rest[1..].find(|letter| !is_name(letter)).unwrap_or(rest.len() - 1),
            _ => return Some(at),
        };
    }
}

/// Bytes up to the end of the bracket that `source` begins with, if it does.
fn bracket_length(source: &str) -> Option<usize> {
    if !source.starts_with(['(', '[', '{']) {
        return None;
    }
    let (mut depth, mut at) = (0usize, 0);
    while at < source.len() {
        let rest = &source[at..];
        if let Some(length) = string_length(rest) {
            at += length;
            continue;
        }
        let letter = rest.chars().next()?;
        at += letter.len_utf8();
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn generation_blocks_are_rendered() {
        let source =
            "{%- generation -%}a{% endgeneration %}{%generation%}b{%- endgeneration +%}{# generation #}";
        let expected = "{%- if true -%}a{% endif %}{%if true%}b{%- endif +%}{# generation #}";
        assert_eq!(translated(source), expected);
    }

    #[test]
    fn formatting_is_a_filter() {
        for (source, expected) in [
            ("{{ 'a %s' % b }}", "{{ 'a %s' | format(b) }}"),
            (
                "{{ \"%s, %d\" % (b.c[0], 'x)' | length) ~ 'y' }}",
                "{{ \"%s, %d\" | format(b.c[0], 'x)' | length) ~ 'y' }}",
            ),
            ("{% set a = '%s' % f(x)['y'].z %}", "{% set a = '%s' | format(f(x)['y'].z) %}"),
            ("{{ '%s' % (a) + (b) }}", "{{ '%s' | format(a) + (b) }}"),
            ("{{ '%s' % (a)[0] }}", "{{ '%s' | format((a)[0]) }}"),
            // Remainders, ends of tags and text stay what they are.
            (
                "{{ a % 2 }}{% if x == 'y'%}'%s' % b{% endif %}",
                "{{ a % 2 }}{% if x == 'y'%}'%s' % b{% endif %}",
            ),
        ] {
            assert_eq!(translated(source), expected);
        }
    }

    proptest! {
        /// Whatever a file holds, nothing of it is lost, and templates without such words stay as they are.
        #[test]
        fn everything_else_stays(source in "[a-z {}%#'\"()\\[\\].\\\\\u{e9}\n-]{0,60}") {
            let result = translated(&source);
            if !source.contains(['\'', '"']) {
                prop_assert_eq!(result, source);
            }
        }
    }
}
