//! /tokenize, /detokenize (vLLM's) and /apply-template (llama.cpp's).

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sparkv_engine::{Prompt, RequestError};

use crate::app::App;
use crate::body::Fields;
use crate::chat::PROMPT as MESSAGES;
use crate::chat::conversation::{self, Conversation};
use crate::chat::types::ConversationFields;
use crate::error::ApiError;
use crate::unsupported;

/// The tokens of a text.
#[derive(Debug, Serialize)]
pub(crate) struct Tokenized {
    count: usize,
    /// Tokens that fit in the context.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// Their texts, if asked for.
    token_strs: Option<Vec<String>>,
}

/// A text.
#[derive(Debug, Serialize)]
pub(crate) struct PromptText {
    prompt: String,
}

/// The tokens of a text (`prompt`) or of a conversation (`messages`).
pub(crate) async fn tokenize(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<Tokenized>, ApiError> {
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let prompt: Option<String> = fields.take("prompt")?;
    let special: Option<bool> = fields.take("add_special_tokens")?;
    let with_strings: bool = fields.take("return_token_strs")?.unwrap_or(false);
    let conversation = ConversationFields::take(&mut fields)?;
    unsupported::refuse(&fields.take_rest(), "", |_| None)?;
    let prompt = match (prompt, conversation.messages.is_some()) {
        (Some(text), false) => Written::Text(text),
        (None, true) => Written::Chat(conversation::check(conversation)?),
        _ => return Err(ApiError::invalid("prompt", "one of prompt and messages is required")),
    };
    let param = if matches!(prompt, Written::Text(_)) { "prompt" } else { MESSAGES };
    let tokens = app.encode(move |engine| match prompt {
        Written::Text(text) => engine.text().tokenize(&text, special.unwrap_or(true)),
        // The template writes the special tokens.
        Written::Chat(Conversation { chat, .. }) => match special {
            Some(true) => engine.text().render(chat).and_then(|text| engine.text().tokenize(&text, true)),
            _ => engine.text().encode(Prompt::Chat(chat)),
        },
    });
    let tokens = tokens.await?.map_err(|error| refused(error, param))?;
    let token_strs = with_strings.then(|| app.token_texts(&tokens));
    Ok(Json(Tokenized { count: tokens.len(), max_model_len: app.context_length(), tokens, token_strs }))
}

enum Written {
    Text(String),
    Chat(Conversation),
}

/// The text of tokens, names of special ones included.
pub(crate) async fn detokenize(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<PromptText>, ApiError> {
    const TOKENS: &str = "tokens";
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let tokens: Option<Vec<u32>> = fields.take(TOKENS)?;
    unsupported::refuse(&fields.take_rest(), "", |_| None)?;
    let tokens = tokens.ok_or_else(|| ApiError::invalid(TOKENS, "a list of token ids is required"))?;
    Ok(Json(PromptText { prompt: app.detokenize(TOKENS, &tokens)? }))
}

/// A conversation as the model reads it.
pub(crate) async fn apply_template(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<PromptText>, ApiError> {
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let conversation = ConversationFields::take(&mut fields)?;
    unsupported::refuse(&fields.take_rest(), "", |_| None)?;
    let Conversation { chat, .. } = conversation::check(conversation)?;
    let prompt = app.encode(move |engine| engine.text().render(chat)).await?;
    Ok(Json(PromptText { prompt: prompt.map_err(|error| refused(error, MESSAGES))? }))
}

fn refused(error: RequestError, param: &str) -> ApiError {
    match error {
        RequestError::InvalidParam { param, message } => ApiError::Invalid { param, message },
        error => ApiError::invalid(param, error.to_string()),
    }
}
