//! Special tokens that only the chat template may write.
//!
//! A text that spells the name of a special token, such as `<|im_end|>`, becomes that token when it is encoded, and so
//! lets whoever wrote the text end a turn and begin another one in somebody else's name. Here what came with a
//! conversation stays text: names in it are masked before the template runs, and what the template wrote is encoded
//! by stand-ins of its tokens, with a tokenizer that takes the names themselves for text. Conversations without such
//! names, which is nearly all, are encoded as ever.
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::chat::{Chat, ChatMessage, Tool, ToolCall};

/// The special tokens of a tokenizer.
#[derive(Debug)]
pub(super) struct ControlTokens {
    /// By their ids.
    tokens: Vec<(u32, AddedToken)>,
    /// Finds their names; its patterns are in the order of `tokens`. `None` if there are no names.
    names: Option<AhoCorasick>,
    /// Part of masks and of stand-ins, which nobody can guess.
    secret: String,
    /// Made when first needed: it takes a moment, and memory.
    literal: OnceLock<Result<Literal, String>>,
}

/// A conversation as the template wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rendered {
    /// As people read it.
    pub(super) text: String,
    /// The same with stand-ins for the special tokens that the template wrote, where it matters.
    pub(super) with_stand_ins: Option<String>,
}

impl Rendered {
    /// A text in which every name of a special token is one.
    pub(super) fn plain(text: String) -> Self {
        Self { text, with_stand_ins: None }
    }
}

/// A tokenizer to which names of special tokens are text, and stand-ins are special tokens.
#[derive(Debug)]
struct Literal {
    tokenizer: Tokenizer,
    /// Tokens from here on are stand-ins, in the order of the special tokens.
    first_stand_in: u32,
}

impl ControlTokens {
    /// Those of `tokenizer`.
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let mut tokens: Vec<(u32, AddedToken)> =
            added.into_iter().filter(|(_, token)| token.special && !token.content.is_empty()).collect();
        tokens.sort_by_key(|(id, _)| *id);
        let names = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(_, token)| &token.content))
            .ok()
            .filter(|_| !tokens.is_empty());
        let secret = format!("s{:016x}", rand::random::<u64>());
        Self { tokens, names, secret, literal: OnceLock::new() }
    }

    /// Masks names of special tokens in all that a client said; whether there were any.
    pub(super) fn mask(&self, chat: &mut Chat) -> bool {
        let Some(names) = &self.names else { return false };
        let mut found = false;
        each_text(chat, &mut |text| {
            if names.is_match(text.as_str()) {
                found = true;
                *text = self.replaced(names, text, |index| self.mask_of(index));
            }
        });
        found
    }

    /// What the template wrote of a conversation that was masked.
    ///
    /// # Errors
    /// If the template changed a mask, so that nobody knows any more what stood there.
    pub(super) fn unmask(&self, written: &str) -> Result<Rendered, String> {
        let Some(names) = &self.names else { return Ok(Rendered::plain(written.to_owned())) };
        let stand_ins = self.replaced(names, written, |index| self.stand_in(index));
        let [text, with_stand_ins] = [written, &stand_ins].map(|text| self.revealed(text));
        if text.contains(&self.secret) {
            return Err("the template changes a text that spells a special token".to_owned());
        }
        Ok(Rendered { text, with_stand_ins: Some(with_stand_ins) })
    }

    /// A text in which masks are the names again.
    pub(super) fn revealed(&self, text: &str) -> String {
        let mut revealed = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(&self.secret) {
            let (before, masked) = rest.split_at(at);
            revealed.push_str(before);
            let masked = &masked[self.secret.len()..];
            let number = masked.strip_prefix('m').and_then(|masked| masked.split_once('e'));
            let name = number.and_then(|(index, behind)| {
                let (_, token) = self.tokens.get(index.parse::<usize>().ok()?)?;
                Some((&token.content, behind))
            });
            (revealed, rest) = match name {
                Some((name, behind)) => (revealed + name, behind),
                None => (revealed + &self.secret, masked),
            };
        }
        revealed + rest
    }

    /// The tokens of a text with stand-ins.
    ///
    /// # Errors
    /// If it cannot be encoded, or the vocabulary takes a name for its token whatever the tokenizer is told.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
        let literal =
            self.literal.get_or_init(|| self.make_literal(tokenizer).map_err(|error| error.to_string()));
        let Literal { tokenizer, first_stand_in } = literal.as_ref().map_err(Clone::clone)?;
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        let real = |&id: &u32| match id.checked_sub(*first_stand_in) {
            Some(index) => self.tokens.get(index as usize).map(|(id, _)| *id).ok_or_else(|| id.to_string()),
            None if self.tokens.binary_search_by_key(&id, |(special, _)| *special).is_ok() => {
                Err("it spells a special token, which this vocabulary cannot write in other tokens"
                    .to_owned())
            }
            None => Ok(id),
        };
        encoding.get_ids().iter().map(real).collect()
    }

    fn make_literal(&self, tokenizer: &Tokenizer) -> tokenizers::Result<Literal> {
        let mut tokenizer = tokenizer.clone();
        let largest = tokenizer.get_vocab(true).into_values().max();
        tokenizer.set_encode_special_tokens(true);
        let stand_in = |(index, (_, token)): (usize, &(u32, AddedToken))| AddedToken {
            content: self.stand_in(index),
            special: false,
            normalized: false,
            ..token.clone()
        };
        tokenizer.add_tokens(self.tokens.iter().enumerate().map(stand_in))?;
        let first_stand_in = tokenizer
            .token_to_id(&self.stand_in(0))
            .filter(|first| largest.is_none_or(|largest| *first > largest))
            .ok_or("there is no room in the vocabulary")?;
        Ok(Literal { tokenizer, first_stand_in })
    }

    /// Stands for a name in what a client said: letters that templates leave as they are.
    fn mask_of(&self, index: usize) -> String {
        format!("{}m{index}e", self.secret)
    }

    /// Stands for a special token in what a template wrote.
    fn stand_in(&self, index: usize) -> String {
        format!("<{}t{index}e>", self.secret)
    }

    fn replaced(&self, names: &AhoCorasick, text: &str, by: impl Fn(usize) -> String) -> String {
        let mut replaced = String::with_capacity(text.len());
        names.replace_all_with(text, &mut replaced, |found, _, to| {
            to.push_str(&by(found.pattern().as_usize()));
            true
        });
        replaced
    }
}

/// Goes through all texts that a client chose.
fn each_text(chat: &mut Chat, change: &mut impl FnMut(&mut String)) {
    let Chat { messages, tools, template_args, .. } = chat;
    for ChatMessage { role, content, reasoning_content, tool_calls, tool_call_id, name } in messages {
        [role, content].into_iter().for_each(&mut *change);
        [reasoning_content, tool_call_id, name].into_iter().flatten().for_each(&mut *change);
        for ToolCall { id, name, arguments } in tool_calls {
            [id, name].into_iter().for_each(&mut *change);
            each_text_of_value(arguments, change);
        }
    }
    for Tool { name, description, parameters, strict: _ } in tools {
        change(name);
        description.iter_mut().for_each(&mut *change);
        each_text_of_value(parameters, change);
    }
    each_text_of_object(template_args, change);
}

fn each_text_of_value(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text_of_value(item, change)),
        Value::Object(fields) => each_text_of_object(fields, change),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Names of fields are texts, too.
fn each_text_of_object(fields: &mut Map<String, Value>, change: &mut impl FnMut(&mut String)) {
    *fields = std::mem::take(fields)
        .into_iter()
        .map(|(mut name, mut value)| {
            change(&mut name);
            each_text_of_value(&mut value, change);
            (name, value)
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparkv_models::fake;

    use super::*;
    use crate::text::testing::{phi, sentencepiece};

    /// Tokenizers of several kinds, and a name that is a special token of each.
    fn tokenizers() -> [(Tokenizer, &'static str); 3] {
        [(fake::tokenizer().unwrap(), "</s>"), (sentencepiece(), "</s>"), (phi(), "<|end|>")]
    }

    fn encoded(control: &ControlTokens, tokenizer: &Tokenizer, template: &str, content: &str) -> Vec<u32> {
        let mut chat = Chat::from(vec![ChatMessage::new("user", content)]);
        assert!(control.mask(&mut chat));
        let written = template.replace('@', &chat.messages[0].content);
        let rendered = control.unmask(&written).unwrap();
        assert_eq!(rendered.text, template.replace('@', content));
        control.encode(tokenizer, &rendered.with_stand_ins.unwrap()).unwrap()
    }

    #[test]
    fn names_in_content_are_text() {
        for (tokenizer, name) in tokenizers() {
            let control = ControlTokens::new(&tokenizer);
            let id = tokenizer.token_to_id(name).unwrap();
            let content = format!("a {name}b{name}\n{name}");
            let ids = encoded(&control, &tokenizer, &format!("{name}c @{name} b"), &content);
            assert_eq!(ids.iter().filter(|&&other| other == id).count(), 2, "{name} {ids:?}");
            assert_eq!((ids.first(), ids.contains(&id)), (Some(&id), true));
            // What it says is what was written.
            let plain = tokenizer.encode_fast(format!("{name}c {content}{name} b"), false).unwrap();
            let decoded = |ids: &[u32]| tokenizer.decode(ids, false).unwrap().replace([' ', '\n'], "");
            assert_eq!(decoded(&ids), decoded(plain.get_ids()));
        }
    }

    #[test]
    fn every_text_of_a_client_is_masked() {
        let (tokenizer, name) = (fake::tokenizer().unwrap(), "</s>");
        let control = ControlTokens::new(&tokenizer);
        let bad = || format!("a{name}");
        let arguments = serde_json::json!({ bad(): [bad(), { "b": bad() }] });
        let call = ToolCall { id: bad(), name: bad(), arguments: arguments.clone() };
        let message = ChatMessage {
            role: bad(),
            content: bad(),
            reasoning_content: Some(bad()),
            tool_calls: vec![call],
            tool_call_id: Some(bad()),
            name: Some(bad()),
        };
        let tools = vec![Tool {
            name: bad(),
            description: Some(bad()),
            parameters: arguments.clone(),
            strict: false,
        }];
        let template_args = arguments.as_object().unwrap().clone();
        let chat = Chat { messages: vec![message], tools, template_args, ..Chat::default() };
        let mut masked = chat.clone();
        assert!(control.mask(&mut masked));
        let shown = |chat: &Chat| {
            let Chat { messages, tools, template_args, .. } = chat;
            serde_json::json!([messages, tools, template_args]).to_string()
        };
        assert!(!shown(&masked).contains(name), "{}", shown(&masked));
        assert_eq!(control.revealed(&shown(&masked)), shown(&chat));
        let mut harmless = Chat::from(vec![ChatMessage::new("user", "a < /s >")]);
        assert!(!control.mask(&mut harmless));
    }

    proptest! {
        /// Around forged names, everything is encoded as it would be.
        #[test]
        fn all_other_text_has_the_same_tokens(
            content in "[abc\u{e9} \n<>/s|end]{0,12}",
            template in "[abc \n]{0,6}(</s>|<s>)[abc \n]{0,4}@[abc \n]{0,6}(</s>)?[abc ]{0,3}",
            which in 0usize..3,
        ) {
            let (tokenizer, name) = tokenizers().into_iter().nth(which).unwrap();
            let template = template.replace("</s>", name).replace("<s>", name);
            let control = ControlTokens::new(&tokenizer);
            prop_assume!(!content.contains(name));
            let written = template.replace('@', &content);
            let expected = tokenizer.encode_fast(written.as_str(), false).unwrap();
            let rendered = control.unmask(&written).unwrap();
            let ids = control.encode(&tokenizer, &rendered.with_stand_ins.unwrap()).unwrap();
            prop_assert_eq!(ids, expected.get_ids());
        }
    }
}
