//! A model's tokenizer and chat template.
use std::sync::{Arc, OnceLock};

use sparkv_models::{ModelInfo, TextFiles};
use tokenizers::Tokenizer;

use super::{
    grammar::Grammars,
    template::{ChatTemplate, TextModelError},
    tools::ToolFormat,
    vocabulary::Vocabulary,
};
use crate::{
    chat::{Chat, ChatMessage, Turn},
    core::Grammar,
    request::{OutputFormat, Prompt, PromptLength, RequestError},
};

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    vocabulary: Vocabulary,
    tools: ToolFormat,
    /// Made when the first format is asked for: it takes a moment, and memory.
    grammars: OnceLock<Result<Grammars, RequestError>>,
}

/// A prompt as the tokenizer is to take it.
#[derive(Debug)]
pub(super) enum Written {
    /// Tokens already.
    Tokens(Vec<u32>),
    /// Text.
    Text {
        text: String,
        /// The request's field, for errors.
        param: &'static str,
        /// Whether the tokenizer adds its special tokens.
        special: bool,
    },
}

impl TextModel {
    /// A tokenizer and, if the model is one for chats, its template (Jinja, as in `tokenizer_config.json`)
    /// with the texts of `bos_token` and `eos_token` it may ask for.
    ///
    /// # Errors
    /// If the template cannot be compiled.
    pub fn new(
        tokenizer: Tokenizer,
        chat_template: Option<&str>,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextModelError> {
        let template =
            chat_template.map(|source| ChatTemplate::new(source, bos_token, eos_token)).transpose()?;
        let vocabulary = Vocabulary::new(&tokenizer);
        let tools = ToolFormat::of_template(chat_template, |name| {
            tokenizer.token_to_id(name).filter(|&id| vocabulary.is_special(id))
        });
        Ok(Self { tokenizer, template, vocabulary, tools, grammars: OnceLock::new() })
    }

    /// What a model's files hold of these.
    ///
    /// # Errors
    /// If the template cannot be compiled.
    pub fn from_files(files: &TextFiles) -> Result<Self, TextModelError> {
        let [template, bos, eos] =
            [&files.chat_template, &files.bos_token, &files.eos_token].map(Option::as_deref);
        Self::new(files.tokenizer.clone(), template, bos, eos)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens of a prompt; at least one.
    ///
    /// # Errors
    /// If the prompt is empty, the model has no chat template, or the template refuses the messages.
    pub fn encode(&self, prompt: Prompt) -> Result<Vec<u32>, RequestError> {
        self.encode_written(self.write(prompt)?)
    }

    /// What of a prompt is to be encoded: a conversation rendered, everything else as it is.
    pub(super) fn write(&self, prompt: Prompt) -> Result<Written, RequestError> {
        Ok(match prompt {
            Prompt::Tokens(tokens) => Written::Tokens(tokens),
            Prompt::Text(text) => Written::Text { text, param: "prompt", special: true },
            // The template writes the special tokens, the tokenizer must not add them again.
            Prompt::Chat(chat) => {
                Written::Text { text: self.render(chat)?, param: "messages", special: false }
            }
        })
    }

    /// What is known of a prompt's length before it is encoded: a text has the fewest tokens if each is the
    /// longest there is.
    pub(super) fn length(&self, written: &Written) -> PromptLength {
        match written {
            Written::Tokens(tokens) => PromptLength::Exactly(tokens.len()),
            Written::Text { text, .. } => {
                PromptLength::AtLeast(text.len().div_ceil(self.vocabulary.longest()))
            }
        }
    }

    /// Second half of [`Self::encode`].
    pub(super) fn encode_written(&self, written: Written) -> Result<Vec<u32>, RequestError> {
        let (param, tokens) = match written {
            Written::Tokens(tokens) => ("prompt", tokens),
            Written::Text { text, param, special } => (param, self.encode_text(param, &text, special)?),
        };
        if tokens.is_empty() {
            return Err(RequestError::invalid(param, "must not be empty"));
        }
        Ok(tokens)
    }

    /// A conversation as the model reads it.
    ///
    /// # Errors
    /// If there is no message, no chat template, or the template refuses the messages.
    pub fn render(&self, chat: Chat) -> Result<String, RequestError> {
        let template = self.template.as_ref().ok_or(RequestError::NoChatTemplate)?;
        if chat.messages.is_empty() {
            return Err(RequestError::invalid("messages", "must hold at least one message"));
        }
        template.render(&self.tools.describe(chat)).map_err(RequestError::Template)
    }

    /// The tokens of a conversation's system prompt and definitions of tools, and of what follows in another conversation that
    /// begins with them: what the conversation has in common with these. None where there are no such things, or the template
    /// does not take them alone.
    pub(super) fn opening(&self, chat: &Chat) -> Vec<u32> {
        let is_system = |message: &&ChatMessage| matches!(message.role.as_str(), "system" | "developer");
        let mut messages: Vec<ChatMessage> = chat.messages.iter().take_while(is_system).cloned().collect();
        if messages.is_empty() && chat.tools.is_empty() {
            return Vec::new();
        }
        // Nobody begins like this.
        messages.push(ChatMessage::new("user", "\u{1}"));
        let (tools, template_args) = (chat.tools.clone(), chat.template_args.clone());
        let opening = Chat { messages, tools, next: Turn::Answer, template_args };
        self.encode(Prompt::Chat(opening)).unwrap_or_default()
    }

    /// How the model writes calls of tools.
    pub fn tool_format(&self) -> &ToolFormat {
        &self.tools
    }

    /// Compiles a format for `model`, whose tokenizer this is.
    ///
    /// # Errors
    /// If it is not one that answers can be held to.
    pub(super) fn compile(
        &self,
        format: &OutputFormat,
        model: &ModelInfo,
    ) -> Result<Arc<dyn Grammar>, RequestError> {
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.vocabulary, model));
        grammars.as_ref().map_err(Clone::clone)?.compile(format, &self.tools)
    }

    /// The tokens of a text, with or without what the tokenizer's post-processor adds.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, RequestError> {
        self.encode_text("prompt", text, special)
    }

    /// The text of tokens, names of special ones included.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, RequestError> {
        self.tokenizer
            .decode(ids, false)
            .map_err(|error| RequestError::invalid("tokens", format!("cannot be decoded: {error}")))
    }

    fn encode_text(&self, param: &str, text: &str, special: bool) -> Result<Vec<u32>, RequestError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special)
            .map_err(|error| RequestError::invalid(param, format!("cannot be encoded: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether a token has no text of its own: a special token, or an id that only the model knows.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_special(id)
    }

    /// The bytes of a token; those of its name if it is a special one; none if it is unknown.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// The text of a special token that is to be seen in answers.
    pub(super) fn marker(&self, id: u32) -> Option<&'static str> {
        self.tools.marker().filter(|(marker, _)| *marker == id).map(|(_, text)| text)
    }

    /// The text of tokens, special ones left out.
    pub(super) fn decode(&self, ids: &[u32]) -> tokenizers::Result<String> {
        self.tokenizer.decode(ids, true)
    }
}

#[cfg(test)]
mod tests {
    use sparkv_models::fake;

    use super::*;

    const TEMPLATE: &str =
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}";

    /// What a conversation has in common with its opening: its system prompts, and no word of what follows.
    #[test]
    fn an_opening_is_the_system_prompt() {
        let model = TextModel::new(fake::tokenizer().unwrap(), Some(TEMPLATE), None, None).unwrap();
        let chat = |messages: &[(&str, &str)]| -> Chat {
            let messages = messages.iter().map(|&(role, content)| ChatMessage::new(role, content));
            messages.collect::<Vec<_>>().into()
        };
        let common = |chat: &Chat| {
            let opening = model.opening(chat);
            let all = model.encode(Prompt::Chat(chat.clone())).unwrap();
            let count = all.iter().zip(&opening).take_while(|(a, b)| a == b).count();
            model.detokenize(&all[..count]).unwrap()
        };
        let long = chat(&[("system", "Be brief."), ("developer", "Very."), ("user", "Hi"), ("system", "!")]);
        assert_eq!(common(&long), "<system>Be brief.<developer>Very.<user>");
        assert_eq!(common(&chat(&[("user", "Hi")])), "");
        // A template that does not take it.
        let picky = "{% if messages[-1].content|length < 2 %}{{ raise_exception('short') }}{% endif %}x";
        let model = TextModel::new(fake::tokenizer().unwrap(), Some(picky), None, None).unwrap();
        assert!(model.opening(&long).is_empty());
    }
}
