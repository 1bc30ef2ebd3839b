//! Tokens to text, one at a time.
use std::sync::Arc;

use super::model::TextModel;

/// Tokens of the prompt that give the first token its context.
const CONTEXT_TOKENS: usize = 8;

/// An unfinished character is held back for this many tokens, then said as what it is: not a character.
/// A character has four bytes at most, but a run of replacement characters may be what the model means.
const MAX_HELD: usize = 32;

/// What decoders put where bytes are not UTF-8; at the end, a character that may still be completed.
const REPLACEMENT: char = '\u{fffd}';

/// Turns a growing sequence of tokens into a growing text.
///
/// A token's text depends on its neighbours: bytes of one character are spread over tokens, and many decoders
/// drop the leading space of what they are given. So the new token is decoded together with a few tokens
/// before it, and what the text grew by is its own. All growths together are the text of all tokens.
#[derive(Debug)]
pub(super) struct Detokenizer {
    model: Arc<TextModel>,
    /// Said tokens that give context, then those held back.
    window: Vec<u32>,
    /// Tokens of `window` that were said.
    said: usize,
    /// The text of `window[..said]`.
    context: String,
}

impl Detokenizer {
    /// For a text that continues `prompt`'s; for one of its own if that is empty.
    pub(super) fn after(model: Arc<TextModel>, prompt: &[u32]) -> tokenizers::Result<Self> {
        let mut window: Vec<u32> =
            prompt.iter().rev().copied().filter(|&id| !model.is_silent(id)).take(CONTEXT_TOKENS).collect();
        window.reverse();
        let context = model.decode(&window)?;
        let said = window.len();
        Ok(Self { model, window, said, context })
    }

    /// Takes a token; returns the text that it completes, which may be empty.
    pub(super) fn push(&mut self, id: u32) -> tokenizers::Result<String> {
        if self.model.is_silent(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        let text = self.model.decode(&self.window)?;
        if text.ends_with(REPLACEMENT) && self.window.len() - self.said < MAX_HELD {
            return Ok(String::new());
        }
        let growth = self.growth(text)?;
        // A token without text is no context: a decoder would take the next one for the first of a text.
        if !growth.is_empty() {
            self.window.drain(..self.said);
            self.said = self.window.len();
            self.context = self.model.decode(&self.window)?;
        }
        Ok(growth)
    }

    /// The text held back for a character that never was completed.
    pub(super) fn finish(&mut self) -> tokenizers::Result<String> {
        let growth = self.growth(self.model.decode(&self.window)?)?;
        self.window.truncate(self.said);
        Ok(growth)
    }

    /// What `text`, the window's, has beyond the context's.
    fn growth(&self, text: String) -> tokenizers::Result<String> {
        match text.strip_prefix(&self.context) {
            Some(growth) => Ok(growth.to_owned()),
            // Bytes that are no character changed the text before them, which was said already.
            None => self.model.decode(self.window.get(self.said..).unwrap_or_default()),
        }
    }
}
