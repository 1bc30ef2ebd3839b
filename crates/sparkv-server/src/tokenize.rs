//! /tokenize (vLLM's and llama.cpp's), /detokenize, /tokenizer_info (vLLM's) and /apply-template (llama.cpp's).

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
use crate::unsupported;

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    count: usize,
    /// Tokens that fit in the context.
    max_model_len: usize,
    tokens: Tokens,
    /// Their texts, if asked for.
    token_strs: Option<Vec<String>>,
}

/// Ids, or ids with their texts, if llama.cpp's field asks for these.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Tokens {
    Ids(Vec<u32>),
    Pieces(Vec<TokenPiece>),
}

/// A token and its text.
#[derive(Debug, Serialize, ToSchema)]
struct TokenPiece {
    id: u32,
    piece: Piece,
}

/// The text of a token, or its bytes if they are no text by themselves.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

impl TokenPiece {
    fn new(id: u32, bytes: &[u8]) -> Self {
        let piece = match std::str::from_utf8(bytes) {
            Ok(text) => Piece::Text(text.to_owned()),
            Err(_) => Piece::Bytes(bytes.to_owned()),
        };
        Self { id, piece }
    }
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
    /// A text, as llama.cpp has it: without special tokens unless asked for.
    content: Option<String>,
    /// Whether the tokenizer adds its special tokens; it does for a `prompt` unless told not to.
    add_special_tokens: Option<bool>,
    /// The same (llama.cpp).
    add_special: Option<bool>,
    /// Whether to tell each token's text.
    return_token_strs: Option<bool>,
    /// Whether to tell each token's text beside its id (llama.cpp).
    with_pieces: Option<bool>,
}

impl TokenizeFields {
    fn take(fields: &mut Fields) -> Self {
        Self {
            model: fields.take("model"),
            prompt: fields.take("prompt"),
            content: fields.take("content"),
            add_special_tokens: fields.take("add_special_tokens"),
            add_special: fields.take("add_special"),
            return_token_strs: fields.take("return_token_strs"),
            with_pieces: fields.take("with_pieces"),
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

/// The tokens of a text (`prompt`, or `content` as llama.cpp has it) or of a conversation (`messages`).
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
    let asked = TokenizeFields::take(&mut fields);
    let conversation = ConversationFields::take(&mut fields);
    let refusals = fields.finish(unsupported::tokenize)?;
    app.check_model(asked.model.as_deref())?;
    let special = asked.add_special_tokens.or(asked.add_special);
    let texts = (asked.prompt, asked.content, conversation.messages.is_some());
    let (written, param) = refusals.check(|refusals| match texts {
        (Some(text), None, false) => Ok((Written::Text(text, special.unwrap_or(true)), "prompt")),
        (None, Some(text), false) => Ok((Written::Text(text, special.unwrap_or(false)), "content")),
        (None, None, true) => {
            conversation::check(conversation, refusals).map(|chat| (Written::Chat(chat), MESSAGES))
        }
        _ => Err(ApiError::invalid("prompt", "one of prompt, content and messages is required")),
    })?;
    let tokens = app.encode(move |engine| match written {
        Written::Text(text, special) => engine.text().tokenize(&text, special),
        // The template writes the special tokens.
        Written::Chat(Conversation { chat, .. }) => match special {
            Some(true) => engine.text().render(chat).and_then(|text| engine.text().tokenize(&text, true)),
            _ => engine.text().encode(Prompt::Chat(chat)),
        },
    });
    let tokens = tokens.await?.map_err(|error| ApiError::refused(error, &Fault::of_prompt(param)))?;
    let (count, max_model_len) = (tokens.len(), app.context_length());
    let token_strs = asked.return_token_strs.unwrap_or(false).then(|| app.token_texts(&tokens));
    let tokens = if asked.with_pieces.unwrap_or(false) {
        Tokens::Pieces(tokens.into_iter().map(|id| TokenPiece::new(id, app.token_bytes(id))).collect())
    } else {
        Tokens::Ids(tokens)
    };
    Ok(Json(Tokenized { count, max_model_len, tokens, token_strs }))
}

enum Written {
    /// A text, and whether the tokenizer adds its special tokens.
    Text(String, bool),
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
