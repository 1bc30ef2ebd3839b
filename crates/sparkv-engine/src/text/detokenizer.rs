//! Tokens to text, one at a time.
use std::sync::Arc;

use super::model::TextModel;
use crate::{
    event::{TextLogprob, TokenScore},
    sampler::TokenLogprobs,
};

/// Tokens of the prompt that give the first token its context.
const CONTEXT_TOKENS: usize = 8;

/// Bytes of a UTF-8 character, and so the most tokens that it can be spread over.
const MAX_CHARACTER_TOKENS: usize = 4;

/// An unfinished character is held back for this many tokens, then said as what it is: not a character.
/// One character takes fewer, but a run of replacement characters may be what the model means.
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
            prompt.iter().rev().copied().filter(|&id| !model.is_special(id)).take(CONTEXT_TOKENS).collect();
        window.reverse();
        // The first tokens may be the rest of a character, which can spoil the text of all that follow.
        for cut in 0..window.len().min(MAX_CHARACTER_TOKENS) {
            let context = model.decode(&window[cut..])?;
            if !context.contains(REPLACEMENT) {
                window.drain(..cut);
                return Ok(Self { model, said: window.len(), window, context });
            }
        }
        let context = model.decode(&window)?;
        Ok(Self { model, said: window.len(), window, context })
    }

    /// Takes a token; returns the text that it completes, which may be empty.
    pub(super) fn push(&mut self, id: u32) -> tokenizers::Result<String> {
        if let Some(marker) = self.model.marker(id) {
            return Ok(self.finish()? + marker);
        }
        // It would only make the window longer.
        if self.model.is_special(id) {
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

    /// What the model thinks of a token, with the bytes of all tokens.
    pub(super) fn logprob(&self, id: u32, logprobs: &TokenLogprobs) -> TextLogprob {
        TextLogprob {
            token: score(&self.model, id, logprobs.logprob),
            top: logprobs.top.iter().map(|&(id, logprob)| score(&self.model, id, logprob)).collect(),
        }
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

/// A token and how likely it is.
pub(super) fn score(model: &TextModel, id: u32, logprob: f32) -> TokenScore {
    TokenScore { id, bytes: model.bytes(id).to_vec(), logprob }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparkv_models::fake;
    use tokenizers::Tokenizer;

    use super::*;
    use crate::text::testing::sentencepiece;

    fn model(tokenizer: Tokenizer) -> Arc<TextModel> {
        Arc::new(TextModel::new(tokenizer, None, None, None))
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }

    /// The pieces of `ids`' text, the last one what is left at the end.
    fn stream(model: &Arc<TextModel>, prompt: &[u32], ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::after(Arc::clone(model), prompt).unwrap();
        let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        pieces.push(detokenizer.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_is_said_once_it_is_complete() {
        for tokenizer in [fake::tokenizer().unwrap(), sentencepiece()] {
            let model = model(tokenizer.clone());
            let pieces = stream(&model, &[], &ids(&tokenizer, "\u{20ac}\u{1f600}"));
            let said: Vec<&str> = pieces.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
            assert_eq!(said, ["\u{20ac}", "\u{1f600}"]);
        }
    }

    #[test]
    fn a_character_that_is_never_complete_is_replaced_at_the_end() {
        let model = model(fake::tokenizer().unwrap());
        let bytes = "a\u{20ac}".as_bytes();
        let ids: Vec<u32> = bytes[..3].iter().map(|&b| fake::BYTE_OFFSET + u32::from(b)).collect();
        assert_eq!(stream(&model, &[], &ids), ["a", "", "", "\u{fffd}"]);
    }

    #[test]
    fn spaces_between_words_stay() {
        let tokenizer = sentencepiece();
        let model = model(tokenizer.clone());
        let word = tokenizer.token_to_id("\u{2581}abc").unwrap();
        let space = tokenizer.token_to_id("\u{2581}").unwrap();
        assert_eq!(stream(&model, &[], &[word, word]), ["abc", " abc", ""]);
        assert_eq!(stream(&model, &[1, word], &[word]), [" abc", ""], "a completion continues its prompt");
        assert_eq!(stream(&model, &[1], &[word]), ["abc", ""], "begin-of-sequence is not text");
        assert_eq!(stream(&model, &[], &[word, 2, word]), ["abc", "", " abc", ""], "a special token between");
        assert_eq!(stream(&model, &[], &[word, space, word]), ["abc", " ", " abc", ""]);
    }

    #[test]
    fn tokens_without_text_change_nothing() {
        let tokenizer = sentencepiece();
        let model = model(tokenizer.clone());
        let word = tokenizer.token_to_id("\u{2581}abc").unwrap();
        let empty = tokenizer.token_to_id("").unwrap();
        assert_eq!(stream(&model, &[], &[word, empty, word]), ["abc", "", " abc", ""]);
        let mut detokenizer = Detokenizer::after(model, &[]).unwrap();
        for id in [word].into_iter().chain([2; 100]).chain([9999; 100]) {
            detokenizer.push(id).unwrap();
        }
        assert_eq!(detokenizer.window, [word], "the window grows");
    }

    #[test]
    fn a_prompt_may_be_cut_inside_a_character() {
        // Three bytes each, so that the last tokens of the prompt begin in the middle of one.
        let tokenizer = sentencepiece();
        let model = model(tokenizer.clone());
        let all = ids(&tokenizer, &"\u{4e2d}".repeat(6));
        let (prompt, rest) = all.split_at(all.len() - 3);
        assert_eq!(stream(&model, prompt, rest).concat(), "\u{4e2d}");
    }

    #[test]
    fn garbage_is_not_held_for_ever() {
        let model = model(fake::tokenizer().unwrap());
        let garbage = [fake::BYTE_OFFSET + 0x80; 3 * MAX_HELD];
        let pieces = stream(&model, &[], &garbage);
        assert!(pieces[..2 * MAX_HELD].iter().any(|piece| !piece.is_empty()));
        assert_eq!(pieces.concat().chars().count(), garbage.len());
    }

    /// Any text but that which holds replacement characters itself.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ abc\u{e9}\u{20ac}\u{1f600}\n]{0,40}",
            any::<String>().prop_map(|text| text.replace(REPLACEMENT, "")),
        ]
    }

    proptest! {
        #[test]
        fn all_pieces_are_the_whole_text(text in text(), at in 0usize..40) {
            for tokenizer in [fake::tokenizer().unwrap(), sentencepiece()] {
                let model = model(tokenizer.clone());
                let ids = ids(&tokenizer, &text);
                let whole = model.decode(&ids).unwrap();
                prop_assert_eq!(stream(&model, &[], &ids).concat(), whole.clone());
                // Continued after any prompt that is text itself.
                let (prompt, rest) = ids.split_at(at.min(ids.len()));
                let begun = model.decode(prompt).unwrap();
                if !begun.contains(REPLACEMENT) {
                    prop_assert_eq!(begun + &stream(&model, prompt, rest).concat(), whole);
                }
            }
        }

        #[test]
        fn any_tokens_have_some_text(ids in prop::collection::vec(0u32..300, 0..60)) {
            for tokenizer in [fake::tokenizer().unwrap(), sentencepiece()] {
                let model = model(tokenizer);
                let text = stream(&model, &[], &ids).concat();
                prop_assert!(text.len() <= 9 * ids.len());
            }
        }
    }
}
