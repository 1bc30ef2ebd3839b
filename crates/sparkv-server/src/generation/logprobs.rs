//! Log probabilities, as chats (and responses) and as completions report them.

use serde::Serialize;
use serde_json::{Map, Value};
use sparkv_engine::{TextLogprob, TokenScore};
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
    String::from_utf8_lossy(&score.bytes).into_owned()
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
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// For each token the likeliest, and the token itself.
    #[schema(value_type = Vec<Object>)]
    top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Those of a text, or of a piece of it that begins at `offset`, which is moved behind it.
    pub(crate) fn new(logprobs: Vec<TextLogprob>, offset: &mut usize) -> Self {
        let mut lists =
            Self { tokens: vec![], token_logprobs: vec![], top_logprobs: vec![], text_offset: vec![] };
        for TextLogprob { token, top } in logprobs {
            let entry = |score: &TokenScore| (name(score), Value::from(finite(score.logprob)));
            let text = name(&token);
            lists.text_offset.push(*offset);
            *offset += text.chars().count();
            lists.top_logprobs.push(top.iter().chain([&token]).map(entry).collect());
            lists.token_logprobs.push(finite(token.logprob));
            lists.tokens.push(text);
        }
        lists
    }
}
