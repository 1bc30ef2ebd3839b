//! Log probabilities, as chats (and responses) and as completions report them.

use serde::{Serialize, Serializer};
use sparkv_engine::{PromptToken, TextLogprob, TokenScore};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::http::body::Fields;

/// Which log probabilities to report.
#[derive(Debug, ToSchema)]
pub(crate) struct LogprobFields {
    /// Those of the answer's tokens.
    logprobs: Option<bool>,
    /// And those of this many of the likeliest tokens in their places.
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,
}

impl LogprobFields {
    /// Takes these fields out of a body.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self { logprobs: fields.take("logprobs"), top_logprobs: fields.take("top_logprobs") }
    }

    /// Alternatives to report with each token, if any.
    ///
    /// # Errors
    /// If there are to be alternatives to nothing.
    pub(crate) fn check(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "only allowed with `logprobs`: true")),
        }
    }
}

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
    top_logprobs: Vec<Option<Alternatives>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

/// Log probabilities by the texts of their tokens, with the same digits as everywhere.
#[derive(Debug)]
struct Alternatives(Vec<(String, f32)>);

impl Alternatives {
    /// Those of the likeliest tokens, and of the one that was taken. Where two tokens have the same text, the less likely
    /// one goes by its id, as vLLM writes ids.
    fn new(top: &[TokenScore], token: &TokenScore) -> Self {
        let mut told: Vec<(String, f32)> = Vec::new();
        let others = top.iter().filter(|other| other.id != token.id);
        let is_top = top.iter().any(|other| other.id == token.id);
        let all: Vec<&TokenScore> =
            if is_top { top.iter().collect() } else { others.chain([token]).collect() };
        for score in all {
            let text = name(score);
            let is_taken = told.iter().any(|(other, _)| *other == text);
            let key = if is_taken { format!("token_id:{}", score.id) } else { text };
            told.push((key, finite(score.logprob)));
        }
        Self(told)
    }
}

impl Serialize for Alternatives {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// Log probabilities of a prompt's tokens as vLLM writes them: for each token, by ids, itself and the likeliest in its
/// place; null for the first, which follows nothing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = Vec<Option<Object>>)]
pub(crate) struct PromptLogprobs(Vec<Option<PromptAlternatives>>);

/// The alternatives of one token, by their ids.
#[derive(Debug)]
struct PromptAlternatives(Vec<(u32, PromptAlternative)>);

#[derive(Debug, Serialize)]
struct PromptAlternative {
    logprob: f32,
    /// Counted from 1; null beyond those that were asked for.
    rank: Option<usize>,
    decoded_token: String,
}

impl Serialize for PromptAlternatives {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, alternative)| (id, alternative)))
    }
}

impl From<Vec<PromptToken>> for PromptLogprobs {
    fn from(tokens: Vec<PromptToken>) -> Self {
        let each = |PromptToken { id, bytes, logprob, top, .. }: PromptToken| {
            let is_top = top.iter().any(|other| other.id == id);
            let token = TokenScore { id, bytes, logprob: logprob? };
            let ranked = top.into_iter().enumerate().map(|(index, score)| (score, Some(index + 1)));
            let all = ranked.chain((!is_top).then_some((token, None)));
            let told = all.map(|(score, rank)| {
                let decoded_token = name(&score);
                (score.id, PromptAlternative { logprob: finite(score.logprob), rank, decoded_token })
            });
            Some(PromptAlternatives(told.collect()))
        };
        Self(tokens.into_iter().map(each).collect())
    }
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
        self.top_logprobs.push(Some(Alternatives::new(&top, &token)));
        self.token_logprobs.push(Some(finite(token.logprob)));
        self.tokens.push(name(&token));
        self.text_offset.push(offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(id: u32, bytes: &[u8], logprob: f32) -> TokenScore {
        TokenScore { id, bytes: bytes.to_vec(), logprob }
    }

    #[test]
    fn alternatives_that_share_a_text_do_not_collapse() {
        let top = [score(5, b"\xc3", -0.25), score(6, b"\xa9", -14.527_668), score(7, b"a", -3.0)];
        let told = |token: &TokenScore| serde_json::to_string(&Alternatives::new(&top, token)).unwrap();
        let expected = "{\"\u{fffd}\":-0.25,\"token_id:6\":-14.527668,\"a\":-3.0}";
        assert_eq!(told(&top[0]), expected);
        assert_eq!(told(&top[1]), expected);
        let other = score(9, b"\xe2", -20.0);
        assert_eq!(told(&other), format!("{},\"token_id:9\":-20.0}}", expected.trim_end_matches('}')));
    }
}
