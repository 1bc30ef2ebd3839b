//! Log probabilities, as chats (and responses) and as completions report them.

use serde::Serialize;
use serde_json::{Map, Value};
use sparkv_engine::{PromptToken, TextLogprob, TokenScore};
use utoipa::ToSchema;

/// Log probabilities of a chat's text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// Always null: not told apart from content.
    #[schema(value_type = Option<String>)]
    refusal: (),
}

/// A token and what else might have stood in its place.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChatToken {
    #[serde(flatten)]
    token: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct TokenLogprob {
    /// Its text; where its bytes are part of a character, with a replacement character.
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl From<TokenScore> for TokenLogprob {
    fn from(score: TokenScore) -> Self {
        Self { token: name(&score), logprob: finite(score.logprob), bytes: score.bytes }
    }
}

/// JSON has no infinity; nothing is less likely than this.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

fn name(score: &TokenScore) -> String {
    text(&score.bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The tokens of a chat's text, or of a piece of it.
pub(crate) fn tokens(logprobs: Vec<TextLogprob>) -> Vec<ChatToken> {
    let token = |TextLogprob { token, top }| ChatToken {
        token: token.into(),
        top_logprobs: top.into_iter().map(TokenLogprob::from).collect(),
    };
    logprobs.into_iter().map(token).collect()
}

impl From<Vec<TextLogprob>> for ChatLogprobs {
    fn from(logprobs: Vec<TextLogprob>) -> Self {
        Self { content: tokens(logprobs), refusal: () }
    }
}

/// Log probabilities of a completion: parallel lists.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// Null for the first token of the prompt, which follows nothing.
    token_logprobs: Vec<Option<f32>>,
    /// For each token the likeliest, and the token itself; null for the first of the prompt.
    #[schema(value_type = Vec<Option<Object>>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Those of the prompt, of as much of it as is echoed.
    pub(crate) fn prompt(tokens: Vec<PromptToken>) -> Self {
        let mut lists = Self::default();
        for PromptToken { id, bytes, offset, logprob, top } in tokens {
            match logprob {
                Some(logprob) => {
                    lists.push(TextLogprob { token: TokenScore { id, bytes, logprob }, top }, offset)
                }
                None => {
                    lists.tokens.push(text(&bytes));
                    lists.token_logprobs.push(None);
                    lists.top_logprobs.push(None);
                    lists.text_offset.push(offset);
                }
            }
        }
        lists
    }

    /// Adds those of a text, or of a piece of it that begins at `offset`, which is moved behind it.
    pub(crate) fn extend(&mut self, logprobs: Vec<TextLogprob>, offset: &mut usize) {
        for logprob in logprobs {
            let begins = *offset;
            *offset += name(&logprob.token).chars().count();
            self.push(logprob, begins);
        }
    }

    fn push(&mut self, TextLogprob { token, top }: TextLogprob, offset: usize) {
        let entry = |score: &TokenScore| (name(score), Value::from(finite(score.logprob)));
        self.top_logprobs.push(Some(top.iter().chain([&token]).map(entry).collect()));
        self.token_logprobs.push(Some(finite(token.logprob)));
        self.tokens.push(name(&token));
        self.text_offset.push(offset);
    }
}
