//! A model's tokenizer and chat template.
use tokenizers::Tokenizer;

use super::template::ChatTemplate;
use crate::request::{ChatMessage, Prompt, RequestError};

/// A model's text files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextModelError {
    /// The chat template is not a template.
    #[error("the chat template cannot be compiled: {0}")]
    Template(String),
}

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
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
        Ok(Self { tokenizer, template })
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
        let (param, tokens) = match prompt {
            Prompt::Tokens(tokens) => ("prompt", tokens),
            Prompt::Text(text) => ("prompt", self.encode_text("prompt", &text, true)?),
            // The template writes the special tokens, the tokenizer must not add them again.
            Prompt::Chat(messages) => {
                let text = self.render(&messages)?;
                ("messages", self.encode_text("messages", &text, false)?)
            }
        };
        if tokens.is_empty() {
            return Err(RequestError::invalid(param, "must not be empty"));
        }
        Ok(tokens)
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<String, RequestError> {
        let template = self.template.as_ref().ok_or(RequestError::NoChatTemplate)?;
        if messages.is_empty() {
            return Err(RequestError::invalid("messages", "must hold at least one message"));
        }
        template.render(messages).map_err(RequestError::Template)
    }

    fn encode_text(&self, param: &str, text: &str, special: bool) -> Result<Vec<u32>, RequestError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special)
            .map_err(|error| RequestError::invalid(param, format!("cannot be encoded: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether a token has no text of its own: a special token, or an id that only the model knows.
    pub(super) fn is_silent(&self, id: u32) -> bool {
        self.tokenizer
            .id_to_token(id)
            .is_none_or(|token| self.tokenizer.get_added_vocabulary().is_special_token(&token))
    }

    /// The text of tokens, special ones left out.
    pub(super) fn decode(&self, ids: &[u32]) -> tokenizers::Result<String> {
        self.tokenizer.decode(ids, true)
    }
}
