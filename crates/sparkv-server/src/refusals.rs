//! What of a request cannot be honoured: collected, so that a client learns of all of it at once.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::unsupported::Rule;

/// Unknown fields of a request that the log names.
const MAX_NAMED: usize = 16;

/// Characters of a field's name in the log.
const MAX_NAME_CHARS: usize = 100;

/// What becomes of fields that nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are refused, since an answer that ignores what was asked may be worse than none.
    #[default]
    Refuse,
    /// They are ignored, and the log names them.
    Warn,
}

/// What of a request cannot be honoured.
#[derive(Debug)]
pub(crate) struct Refusals {
    unknown: UnknownFields,
    /// Unknown fields that the log may yet name.
    unnamed: usize,
    faults: Vec<ApiError>,
}

impl Refusals {
    pub(crate) fn new(unknown: UnknownFields) -> Self {
        Self { unknown, unnamed: MAX_NAMED, faults: Vec::new() }
    }

    /// Refuses what is left of an object below `path` (empty at the top), unless it is neutral by `rules`. Null asks for
    /// nothing, whoever knows the field.
    pub(crate) fn rest(&mut self, rest: &Map<String, Value>, path: &str, rules: fn(&str) -> Option<Rule>) {
        for (name, value) in rest.iter().filter(|(_, value)| !value.is_null()) {
            let param = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match (rules(name), self.unknown) {
                (Some((is_neutral, _)), _) if is_neutral(value) => {}
                (Some((_, reason)), _) => self.faults.push(ApiError::unsupported(param, reason)),
                (None, UnknownFields::Refuse) => self.faults.push(ApiError::UnknownField { param }),
                (None, UnknownFields::Warn) if self.unnamed == 0 => {}
                (None, UnknownFields::Warn) => {
                    self.unnamed -= 1;
                    let name: String = param.chars().take(MAX_NAME_CHARS).collect();
                    tracing::warn!(field = name, "unknown field of a request ignored");
                }
            }
        }
    }

    /// What came of a check; what it found at fault is kept for the end.
    pub(crate) fn note<T>(&mut self, result: Result<T, ApiError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }

    /// Whether anything is refused so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// What came of a check that may refuse more on its way, if nothing was refused.
    ///
    /// # Errors
    /// All that was.
    pub(crate) fn check<T>(
        mut self,
        check: impl FnOnce(&mut Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let last = check(&mut self);
        self.end(last)
    }

    /// What came of the last check, if nothing was refused.
    ///
    /// # Errors
    /// All that was.
    pub(crate) fn end<T>(self, last: Result<T, ApiError>) -> Result<T, ApiError> {
        let mut faults = self.faults.into_iter();
        match (faults.next(), last) {
            (Some(first), last) => Err(ApiError::several(first, faults.chain(last.err()))),
            (None, last) => last,
        }
    }
}
