//! Checks of a prompt.

use sparkv_engine::Prompt;

use crate::app::App;
use crate::common;
use crate::common::validate::{Asked, Checked};
use crate::completions::PROMPT;
use crate::completions::types::{CompletionBody, PromptField};
use crate::error::ApiError;
use crate::unsupported;

/// Tokens of an answer if the request does not say, as the API has it; fewer where the context ends.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Checks a body and makes the engine's request of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(body: CompletionBody, app: &App) -> Result<Checked, ApiError> {
    let CompletionBody { prompt, generation, rest } = body;
    unsupported::refuse(&rest, "", unsupported::completions)?;
    let prompt = check_prompt(prompt)?;
    let asked = Asked { prompt, prompt_param: PROMPT, default_max_tokens: Some(DEFAULT_MAX_TOKENS) };
    common::validate::validate(generation, asked, app)
}

fn check_prompt(prompt: Option<PromptField>) -> Result<Prompt, ApiError> {
    match prompt {
        None => Err(ApiError::invalid(PROMPT, "a prompt is required")),
        Some(PromptField::Text(text)) => Ok(Prompt::Text(text)),
        Some(PromptField::Tokens(tokens)) if tokens.is_empty() => {
            Err(ApiError::invalid(PROMPT, "a list of tokens has one or more"))
        }
        Some(PromptField::Tokens(tokens)) => Ok(Prompt::Tokens(tokens)),
        Some(PromptField::Texts(texts)) => only(texts).map(Prompt::Text),
        Some(PromptField::TokenLists(lists)) => only(lists).map(Prompt::Tokens),
    }
}

/// The prompt of a list of one. (An empty list was read as a list of tokens.)
fn only<T>(prompts: Vec<T>) -> Result<T, ApiError> {
    let [prompt]: [T; 1] = prompts.try_into().map_err(|prompts: Vec<T>| {
        let reason = format!("one prompt is continued per request, got {}", prompts.len());
        ApiError::unsupported(PROMPT, reason)
    })?;
    Ok(prompt)
}
