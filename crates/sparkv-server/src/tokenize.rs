//! /tokenize, /detokenize, /tokenizer_info (vLLM's) and /apply-template (llama.cpp's).

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sparkv_engine::{Prompt, TokenizerInfo};
use utoipa::ToSchema;

use crate::app::App;
use crate::conversation::types::ConversationFields;
use crate::conversation::types::MESSAGES;
use crate::conversation::{self, Conversation};
use crate::error::{ApiError, Fault};
use crate::generation::fields::ModelField;
use crate::http::body::Fields;
use crate::schema::described_as_one;

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    count: usize,
    /// Tokens that fit in the context.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// Their texts, if asked for.
    token_strs: Option<Vec<String>>,
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromptText {
    prompt: String,
}

described_as_one!(TokenizeBody, "TokenizeRequest", [TokenizeFields, ConversationFields]);
described_as_one!(DetokenizeBody, "DetokenizeRequest", [DetokenizeFields]);
described_as_one!(ApplyTemplateBody, "ApplyTemplateRequest", [ModelField, ConversationFields]);

/// A request for the tokens of a text or of a conversation.
struct TokenizeBody;

/// A request for the text of tokens.
struct DetokenizeBody;

/// A request for a conversation as the model reads it.
struct ApplyTemplateBody;

/// Fields that a conversation does not have.
#[derive(Debug, ToSchema)]
struct TokenizeFields {
    model: Option<String>,
    prompt: Option<String>,
    /// Whether the tokenizer adds its special tokens; it does for a text unless told not to.
    add_special_tokens: Option<bool>,
    /// Whether to tell each token's text.
    return_token_strs: Option<bool>,
}

impl TokenizeFields {
    fn take(fields: &mut Fields) -> Self {
        Self {
            model: fields.take("model"),
            prompt: fields.take("prompt"),
            add_special_tokens: fields.take("add_special_tokens"),
            return_token_strs: fields.take("return_token_strs"),
        }
    }
}

/// Tokens, and the model they are of.
#[derive(Debug, ToSchema)]
struct DetokenizeFields {
    model: Option<String>,
    #[schema(required = true, value_type = Vec<u32>)]
    tokens: Option<Vec<u32>>,
}

/// The tokens of a text (`prompt`) or of a conversation (`messages`).
#[utoipa::path(
    post,
    path = "/tokenize",
    request_body = TokenizeBody,
    responses((status = 200, description = "It", body = Tokenized))
)]
pub(crate) async fn tokenize(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<Tokenized>, ApiError> {
    let TokenizeFields { model, prompt, add_special_tokens: special, return_token_strs } =
        TokenizeFields::take(&mut fields);
    let conversation = ConversationFields::take(&mut fields);
    let refusals = fields.finish(|_| None)?;
    app.check_model(model.as_deref())?;
    let prompt = refusals.check(|refusals| match (prompt, conversation.messages.is_some()) {
        (Some(text), false) => Ok(Written::Text(text)),
        (None, true) => conversation::check(conversation, refusals).map(Written::Chat),
        _ => Err(ApiError::invalid("prompt", "one of prompt and messages is required")),
    })?;
    let param = if matches!(prompt, Written::Text(_)) { "prompt" } else { MESSAGES };
    let tokens = app.encode(move |engine| match prompt {
        Written::Text(text) => engine.text().tokenize(&text, special.unwrap_or(true)),
        // The template writes the special tokens.
        Written::Chat(Conversation { chat, .. }) => match special {
            Some(true) => engine.text().render(chat).and_then(|text| engine.text().tokenize(&text, true)),
            _ => engine.text().encode(Prompt::Chat(chat)),
        },
    });
    let tokens = tokens.await?.map_err(|error| ApiError::refused(error, &Fault::of_prompt(param)))?;
    let token_strs = return_token_strs.unwrap_or(false).then(|| app.token_texts(&tokens));
    Ok(Json(Tokenized { count: tokens.len(), max_model_len: app.context_length(), tokens, token_strs }))
}

enum Written {
    Text(String),
    Chat(Conversation),
}

/// The text of tokens, names of special ones included.
#[utoipa::path(
    post,
    path = "/detokenize",
    request_body = DetokenizeBody,
    responses((status = 200, description = "It", body = PromptText))
)]
pub(crate) async fn detokenize(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<PromptText>, ApiError> {
    const TOKENS: &str = "tokens";
    let DetokenizeFields { model, tokens } =
        DetokenizeFields { model: fields.take("model"), tokens: fields.take(TOKENS) };
    fields.finish(|_| None)?.end(Ok(()))?;
    app.check_model(model.as_deref())?;
    let tokens = tokens.ok_or_else(|| ApiError::invalid(TOKENS, "a list of token ids is required"))?;
    Ok(Json(PromptText { prompt: app.detokenize(TOKENS, &tokens)? }))
}

/// What there is to know of the tokenizer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizerInfoBody {
    bos_token: Option<String>,
    eos_token: Option<String>,
    /// Tokens that fit in the context.
    model_max_length: usize,
    /// Jinja.
    chat_template: Option<String>,
}

/// What there is to know of the tokenizer (vLLM's route).
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    responses((status = 200, description = "It", body = TokenizerInfoBody))
)]
pub(crate) async fn tokenizer_info(State(app): State<App>) -> Json<TokenizerInfoBody> {
    let TokenizerInfo { chat_template, bos_token, eos_token } = app.tokenizer_info();
    let model_max_length = app.context_length();
    Json(TokenizerInfoBody { bos_token, eos_token, model_max_length, chat_template })
}

/// A conversation as the model reads it.
#[utoipa::path(
    post,
    path = "/apply-template",
    request_body = ApplyTemplateBody,
    responses((status = 200, description = "It", body = PromptText))
)]
pub(crate) async fn apply_template(
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<PromptText>, ApiError> {
    let ModelField { model } = ModelField::take(&mut fields);
    let conversation = ConversationFields::take(&mut fields);
    let refusals = fields.finish(|_| None)?;
    app.check_model(model.as_deref())?;
    let Conversation { chat, .. } = refusals.check(|refusals| conversation::check(conversation, refusals))?;
    let prompt = app.encode(move |engine| engine.text().render(chat)).await?;
    Ok(Json(PromptText {
        prompt: prompt.map_err(|error| ApiError::refused(error, &Fault::of_prompt(MESSAGES)))?,
    }))
}
