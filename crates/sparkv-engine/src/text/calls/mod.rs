//! Calls of tools in a text that arrives in pieces.
mod json;

use self::json::{Arguments, JsonCall};
use super::tools::{ARGS, CLOSE, LIST, OPEN, ToolFormat};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedDelta {
    /// Text that is no call.
    Text(String),
    /// A call begins.
    Call {
        /// The tool's name.
        name: String,
    },
    /// More of the JSON of the last call's arguments.
    Arguments(String),
}

/// Finds calls in an answer. What is not a call, or not one of a tool there is, is text.
#[derive(Debug, Clone)]
pub struct CallParser {
    format: ToolFormat,
    /// Names of the tools.
    names: Vec<String>,
    /// Whether what begins like a call is one, because the answer was held to that.
    held_to: bool,
    /// Text not yet emitted.
    held: String,
    state: State,
    /// Whether anything but white space was emitted, so that a call cannot begin any more in [`ToolFormat::Json`].
    spoken: bool,
    called: bool,
}

#[derive(Debug, Clone)]
enum State {
    Text,
    Call(JsonCall),
    /// Behind the marker of a call whose name stands alone.
    Name,
    /// In the arguments that follow such a name.
    Arguments(Arguments),
    /// Behind a call; more may follow.
    Between,
}

impl CallParser {
    /// For answers in `format` that may call `names`. `held_to`: what begins like a call is one, because the answer
    /// was held to a format; so a call that is cut off is not text.
    pub fn new(format: ToolFormat, names: Vec<String>, held_to: bool) -> Self {
        Self { format, names, held_to, held: String::new(), state: State::Text, spoken: false, called: false }
    }

    /// Whether a call was found.
    pub fn has_called(&self) -> bool {
        self.called
    }

    /// Takes the next piece of the answer; returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<ParsedDelta> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.advance(&mut pieces) {}
        pieces
    }

    /// What is left at the end of the answer.
    pub fn finish(&mut self) -> Vec<ParsedDelta> {
        let mut pieces = Vec::new();
        let text = match std::mem::replace(&mut self.state, State::Between) {
            State::Text if self.held_to && !self.spoken && self.begins_call() => String::new(),
            State::Text => std::mem::take(&mut self.held),
            State::Call(_) | State::Name if self.held_to => String::new(),
            State::Name => LIST.to_owned() + &std::mem::take(&mut self.held),
            // What was not announced was no call.
            State::Call(call) if !call.announced => call.raw + &std::mem::take(&mut self.held),
            State::Call(_) | State::Arguments(_) | State::Between => String::new(),
        };
        self.emit(text, &mut pieces);
        pieces
    }

    /// Whether what is held may be the beginning of a marker.
    fn begins_call(&self) -> bool {
        let held = self.held.trim_start();
        !held.is_empty() && self.marker().starts_with(held)
    }

    /// What calls begin with.
    fn marker(&self) -> &'static str {
        match self.format {
            ToolFormat::Tagged { .. } => OPEN,
            ToolFormat::List { .. } | ToolFormat::Named { .. } => LIST,
            ToolFormat::Json => "{",
        }
    }

    /// Does one thing with what is held; false if more has to come first.
    fn advance(&mut self, pieces: &mut Vec<ParsedDelta>) -> bool {
        match &mut self.state {
            State::Text => self.find_call(pieces),
            State::Call(call) => {
                let Some(end) = call.push(&self.held, &self.names, pieces) else {
                    self.held.clear();
                    self.called |= call.announced;
                    return false;
                };
                self.called |= call.announced;
                let rest = self.held.split_off(end.at);
                let raw = std::mem::take(&mut call.raw);
                self.held = rest;
                if end.is_call {
                    self.state = State::Between;
                } else {
                    let opening = if matches!(self.format, ToolFormat::Tagged { .. }) { OPEN } else { "" };
                    self.spoken = true;
                    self.state = State::Text;
                    self.emit(format!("{opening}{raw}"), pieces);
                }
                true
            }
            State::Name => self.read_name(pieces),
            State::Arguments(arguments) => {
                let end = arguments.push(&self.held);
                let rest = self.held.split_off(end.unwrap_or(self.held.len()));
                let told = std::mem::replace(&mut self.held, rest);
                if !told.is_empty() {
                    pieces.push(ParsedDelta::Arguments(told));
                }
                if end.is_some() {
                    self.state = State::Between;
                }
                end.is_some()
            }
            State::Between => self.find_next(),
        }
    }

    /// Reads a name up to its arguments; an id may stand between them.
    fn read_name(&mut self, pieces: &mut Vec<ParsedDelta>) -> bool {
        let Some(at) = self.held.find(ARGS) else { return false };
        let rest = self.held.split_off(at + ARGS.len());
        let said = std::mem::replace(&mut self.held, rest);
        let name = said[..at].split('[').next().unwrap_or_default().trim();
        if self.names.iter().any(|known| known == name) {
            pieces.push(ParsedDelta::Call { name: name.to_owned() });
            self.called = true;
            self.state = State::Arguments(Arguments::default());
        } else {
            self.spoken = true;
            self.state = State::Text;
            self.emit(format!("{LIST}{said}"), pieces);
        }
        true
    }

    /// Looks for the first call.
    fn find_call(&mut self, pieces: &mut Vec<ParsedDelta>) -> bool {
        if self.format == ToolFormat::Json {
            let text = self.held.trim_start();
            if self.spoken || !(text.is_empty() || text.starts_with('{')) {
                let text = std::mem::take(&mut self.held);
                self.emit(text, pieces);
                return false;
            }
            if text.is_empty() {
                return false;
            }
            self.held = text.to_owned();
            self.state = State::Call(JsonCall::default());
            return true;
        }
        let marker = self.marker();
        if let Some(at) = self.held.find(marker) {
            let rest = self.held.split_off(at + marker.len());
            self.held.truncate(at);
            let before = std::mem::replace(&mut self.held, rest);
            self.emit(before.trim_end().to_owned(), pieces);
            self.state = match self.format {
                ToolFormat::List { .. } => State::Between,
                ToolFormat::Named { .. } => State::Name,
                ToolFormat::Tagged { .. } | ToolFormat::Json => State::Call(JsonCall::default()),
            };
            return true;
        }
        // White space before a marker is no text either.
        let certain = self.held.trim_end().len().min(self.held.len() - partial(&self.held, marker));
        let certain = self.held[..certain].trim_end().len();
        let held = self.held.split_off(certain);
        let text = std::mem::replace(&mut self.held, held);
        self.emit(text, pieces);
        false
    }

    /// Skips what stands between two calls.
    fn find_next(&mut self) -> bool {
        let (marker, skipped): (&str, &[&str]) = match self.format {
            ToolFormat::Tagged { .. } => (OPEN, &[CLOSE]),
            ToolFormat::List { .. } => ("{", &["[", ",", "]"]),
            ToolFormat::Named { .. } => (LIST, &[]),
            ToolFormat::Json => ("{", &[";", ","]),
        };
        let text = self.held.trim_start();
        if text.starts_with('{') && marker == "{" {
            self.held = text.to_owned();
            self.state = State::Call(JsonCall::default());
            return true;
        }
        if let Some(rest) = text.strip_prefix(marker) {
            self.held = rest.to_owned();
            self.state = match self.format {
                ToolFormat::Named { .. } => State::Name,
                _ => State::Call(JsonCall::default()),
            };
            return true;
        }
        if let Some(rest) = skipped.iter().find_map(|skipped| text.strip_prefix(skipped)) {
            self.held = rest.to_owned();
            return true;
        }
        let may_go_on = |marker: &str| marker.starts_with(text);
        if text.is_empty() || may_go_on(marker) || skipped.iter().any(|skipped| may_go_on(skipped)) {
            self.held = text.to_owned();
            return false;
        }
        self.held = text.to_owned();
        self.state = State::Text;
        self.spoken = true;
        true
    }

    fn emit(&mut self, text: String, pieces: &mut Vec<ParsedDelta>) {
        if !text.is_empty() {
            self.spoken |= !text.trim().is_empty();
            pieces.push(ParsedDelta::Text(text));
        }
    }
}

/// Bytes at the end of `text` that may be the beginning of `marker`.
fn partial(text: &str, marker: &str) -> usize {
    let longest = (marker.len() - 1).min(text.len());
    (1..=longest).rev().find(|&length| text.ends_with(&marker[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAGGED: ToolFormat = ToolFormat::Tagged { in_template: true };
    const MISTRAL: ToolFormat = ToolFormat::List { marker: None };
    const NAMED: ToolFormat = ToolFormat::Named { marker: None, args: None };

    /// Text, and calls with their arguments, of an answer in pieces.
    fn parse(format: ToolFormat, pieces: &[&str]) -> (String, Vec<(String, String)>) {
        let mut parser = CallParser::new(format, vec!["f".to_owned(), "g".to_owned()], false);
        let mut emitted: Vec<ParsedDelta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        emitted.extend(parser.finish());
        let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for piece in emitted {
            match piece {
                ParsedDelta::Text(more) => text.push_str(&more),
                ParsedDelta::Call { name } => calls.push((name, String::new())),
                ParsedDelta::Arguments(more) => calls.last_mut().unwrap().1.push_str(&more),
            }
        }
        assert_eq!(parser.has_called(), !calls.is_empty());
        (text, calls)
    }

    fn calls(calls: &[(&str, &str)]) -> Vec<(String, String)> {
        calls.iter().map(|&(name, arguments)| (name.to_owned(), arguments.to_owned())).collect()
    }

    /// How an answer is written, the answer, its text, and its calls.
    type Case = (ToolFormat, &'static str, &'static str, Vec<(String, String)>);

    /// Answers, and what is in them.
    fn cases() -> Vec<Case> {
        let two = calls(&[("f", r#"{"a": "}\"{", "b": [1, {"c": 2}]}"#), ("g", "{}")]);
        vec![
            (
                TAGGED,
                "Let me see. \n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}}\n</tool_call>\n<tool_call>{\"arguments\": {}, \"name\": \"g\"}</tool_call>",
                "Let me see.",
                two.clone(),
            ),
            (
                ToolFormat::Json,
                " {\"name\": \"f\", \"parameters\": {\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}}; {\"name\": \"g\", \"parameters\": {}}",
                "",
                two.clone(),
            ),
            (
                MISTRAL,
                "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}}, {\"name\": \"g\", \"arguments\": {}}]",
                "",
                two.clone(),
            ),
            (
                NAMED,
                "I look.\n[TOOL_CALLS]f[ARGS]{\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]} [TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}",
                "I look.",
                two,
            ),
            (NAMED, "[TOOL_CALLS]h[ARGS]{}", "[TOOL_CALLS]h[ARGS]{}", vec![]),
            (NAMED, "[TOOL_CALLS]f[AR", "[TOOL_CALLS]f[AR", vec![]),
            (NAMED, "[TOOL_CALLS]f[ARGS]{\"a\": \"}", "", calls(&[("f", "{\"a\": \"}")])),
            (
                TAGGED,
                "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
                "",
                calls(&[("f", r#"{"a": 1}"#)]),
            ),
            // No call, or none of a tool there is.
            (TAGGED, "1 < 2 <tool_", "1 < 2 <tool_", vec![]),
            (
                TAGGED,
                "<tool_call>{\"name\": \"h\", \"arguments\": {}}",
                "<tool_call>{\"name\": \"h\", \"arguments\": {}}",
                vec![],
            ),
            (ToolFormat::Json, "{\"answer\": 42}", "{\"answer\": 42}", vec![]),
            (ToolFormat::Json, "So {\"name\": \"f\"}", "So {\"name\": \"f\"}", vec![]),
            (ToolFormat::Json, "{} \u{e4}", "{} \u{e4}", vec![]),
            // Cut off.
            (
                TAGGED,
                "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x",
                "",
                calls(&[("f", r#"{"a": "x"#)]),
            ),
        ]
    }

    #[test]
    fn calls_are_found_in_each_format() {
        for (format, answer, text, calls) in cases() {
            assert_eq!(parse(format, &[answer]), (text.to_owned(), calls), "{answer}");
        }
    }

    #[test]
    fn a_call_that_is_cut_off_is_no_text_where_there_has_to_be_one() {
        for (format, answer) in [
            (TAGGED, "<tool_call>\n{\"name\": \"f\", \"arguments\": {"),
            (ToolFormat::Json, "{\"name\": \"f\", \"parameters\": {"),
            (MISTRAL, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {"),
            (NAMED, "[TOOL_CALLS]f[ARGS]{"),
        ] {
            for end in 1..=answer.len() {
                let mut parser = CallParser::new(format.clone(), vec!["f".to_owned()], true);
                let mut pieces = parser.push(&answer[..end]);
                pieces.extend(parser.finish());
                assert!(
                    !pieces.iter().any(|piece| matches!(piece, ParsedDelta::Text(_))),
                    "{}: {pieces:?}",
                    &answer[..end]
                );
            }
            let mut parser = CallParser::new(format, vec!["f".to_owned()], true);
            assert_eq!(parser.push("Hello"), [ParsedDelta::Text("Hello".to_owned())]);
        }
    }

    proptest! {
        #[test]
        fn how_the_answer_is_cut_changes_nothing(case in 0..14usize, cuts in prop::collection::vec(0..200usize, 0..8)) {
            let (format, answer, text, calls) = cases().swap_remove(case);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&at| answer.is_char_boundary(at.min(answer.len()))).map(|at| at.min(answer.len())).collect();
            cuts.push(0);
            cuts.push(answer.len());
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse(format, &pieces), (text.to_owned(), calls));
        }

        #[test]
        fn nothing_breaks_it(format in 0..4usize, pieces in prop::collection::vec(r#"(<tool_call>|</tool_call>|\[TOOL_CALLS\]|\[ARGS\]|[{}\[\]":, \\]|name|arguments|f|\PC){0,12}"#, 0..8)) {
            let format = [TAGGED, ToolFormat::Json, MISTRAL, NAMED][format].clone();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = parse(format.clone(), &[&pieces.concat()]);
            prop_assert_eq!(parse(format, &pieces), whole);
        }
    }
}
