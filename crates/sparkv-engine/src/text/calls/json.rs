//! Readers of a call's JSON, which arrives in pieces.
use serde_json::Value;

use super::ParsedDelta;

/// Reads an object that is nothing but arguments.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Arguments {
    /// Reads on; the byte behind the object, once it ends.
    pub(super) fn push(&mut self, text: &str) -> Option<usize> {
        for (at, letter) in text.char_indices() {
            match letter {
                _ if self.escaped => self.escaped = false,
                '\\' if self.in_string => self.escaped = true,
                '"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                '{' | '[' => self.depth += 1,
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Where an object ended.
pub(super) struct End {
    /// Byte behind it in what was pushed.
    pub(super) at: usize,
    /// Whether it was a call of a tool there is.
    pub(super) is_call: bool,
}

/// Reads one `{"name": .., "arguments": ..}`, whose arguments may be said before they are complete.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCall {
    pub(super) raw: String,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The key of the member at hand, once read.
    key: Option<String>,
    /// Where in `raw` the member's key or value begins.
    begins: Option<usize>,
    /// Told of `raw`, as far as it is arguments.
    emitted: usize,
    in_arguments: bool,
    /// Arguments that came before the name.
    early: Option<String>,
    name: Option<String>,
    pub(super) announced: bool,
}

impl JsonCall {
    /// Reads on; tells what is new. `None` until the object ends.
    pub(super) fn push(
        &mut self,
        text: &str,
        names: &[String],
        pieces: &mut Vec<ParsedDelta>,
    ) -> Option<End> {
        for (at, letter) in text.char_indices() {
            let end = at + letter.len_utf8();
            if self.raw.is_empty() && letter.is_whitespace() {
                continue;
            }
            if self.raw.is_empty() && letter != '{' {
                return Some(End { at, is_call: false });
            }
            self.raw.push(letter);
            if !self.read(letter, names, pieces) {
                return Some(End { at: end, is_call: false });
            }
            if self.depth == 0 {
                return Some(End { at: end, is_call: self.announced });
            }
        }
        if self.in_arguments && self.announced && self.early.is_none() {
            self.tell(self.raw.len(), pieces);
        }
        None
    }

    /// Takes note of the last letter of `raw`; false if this cannot be a call.
    fn read(&mut self, letter: char, names: &[String], pieces: &mut Vec<ParsedDelta>) -> bool {
        let at = self.raw.len() - letter.len_utf8();
        if self.in_string {
            match letter {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.depth == 1 && self.key.is_none() {
                        let key = self.begins.take().map(|begins| &self.raw[begins..]);
                        self.key = key.and_then(|key| serde_json::from_str(key).ok());
                        return self.key.is_some();
                    }
                }
                _ => {}
            }
            return true;
        }
        match letter {
            ',' | '}' if self.depth == 1 => {
                if !self.end_member(at, names, pieces) {
                    return false;
                }
                if letter == '}' {
                    self.depth = 0;
                }
                return true;
            }
            ':' if self.depth == 1 => return true,
            _ if letter.is_whitespace() => return true,
            _ => {}
        }
        if self.depth == 1 && self.begins.is_none() {
            self.begins = Some(at);
            if matches!(self.key.as_deref(), Some("arguments" | "parameters")) {
                self.in_arguments = letter == '{';
                self.emitted = at;
            }
        }
        match letter {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.in_arguments && self.depth == 1 {
            self.tell(at + 1, pieces);
            self.in_arguments = false;
        }
        true
    }

    /// At the end of a member's value.
    fn end_member(&mut self, at: usize, names: &[String], pieces: &mut Vec<ParsedDelta>) -> bool {
        let (Some(key), Some(begins)) = (self.key.take(), self.begins.take()) else {
            // Only an empty object has no member at its end.
            return false;
        };
        let value = self.raw[begins..at].trim();
        match key.as_str() {
            "name" => {
                let name = serde_json::from_str::<String>(value).ok();
                let Some(name) = name.filter(|name| names.contains(name)) else { return false };
                pieces.push(ParsedDelta::Call { name: name.clone() });
                self.name = Some(name);
                self.announced = true;
                if let Some(early) = self.early.take() {
                    pieces.push(ParsedDelta::Arguments(early));
                }
            }
            "arguments" | "parameters" => {
                // Some write the object's JSON as a string.
                let inner = serde_json::from_str::<Value>(value).ok();
                let text = inner.and_then(|inner| inner.as_str().map(str::to_owned));
                match (text, self.announced) {
                    (Some(text), true) => pieces.push(ParsedDelta::Arguments(text)),
                    (Some(text), false) => self.early = Some(text),
                    (None, true) => {}
                    (None, false) => self.early = Some(value.to_owned()),
                }
            }
            _ => {}
        }
        true
    }

    /// Tells arguments up to `end`, if the call was announced.
    fn tell(&mut self, end: usize, pieces: &mut Vec<ParsedDelta>) {
        if self.announced && self.emitted < end {
            pieces.push(ParsedDelta::Arguments(self.raw[self.emitted..end].to_owned()));
            self.emitted = end;
        }
    }
}
