//! Checks of prompts.

use sparkv_engine::{GenerateRequest, Prompt, sampler::MAX_TOP_LOGPROBS};

use crate::app::App;
use crate::completions::PROMPT;
use crate::completions::types::{CompletionBody, CompletionFields, PromptField};
use crate::error::ApiError;
use crate::generation;
use crate::generation::validate::{Asked, Checked, Names};
use crate::refusals::Refusals;

/// Tokens of an answer if the request does not say, as the API has it; fewer where the context ends.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Checks a body and makes the engine's requests of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(
    body: CompletionBody,
    refusals: &mut Refusals,
    app: &App,
) -> Result<Checked, ApiError> {
    let CompletionBody { own: CompletionFields { prompt, echo, logprobs }, generation } = body;
    if logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(ApiError::invalid("logprobs", format!("must be at most {MAX_TOP_LOGPROBS}")));
    }
    let asked = Asked {
        prompts: check_prompts(prompt)?,
        names: Names::usual(PROMPT),
        default_max_tokens: Some(DEFAULT_MAX_TOKENS),
        logprobs,
        prompt_logprobs: logprobs.filter(|_| echo == Some(true)),
        may_be_empty: true,
        format: None,
        tools: None,
    };
    generation::validate::validate(generation, asked, refusals, app)
}

fn check_prompts(prompt: Option<PromptField>) -> Result<Vec<Prompt>, ApiError> {
    let prompts = match prompt {
        None => return Err(ApiError::invalid(PROMPT, "a prompt is required")),
        Some(PromptField::Text(text)) => vec![Prompt::Text(text)],
        Some(PromptField::Tokens(tokens)) if tokens.is_empty() => {
            return Err(ApiError::invalid(PROMPT, "a list of tokens has one or more"));
        }
        Some(PromptField::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
        // (An empty list was read as a list of tokens.)
        Some(PromptField::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Some(PromptField::TokenLists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    Ok(prompts)
}

/// The texts of prompts.
///
/// # Errors
/// If tokens have no text.
pub(crate) fn echo(requests: &[GenerateRequest], app: &App) -> Result<Vec<String>, ApiError> {
    let text = |request: &GenerateRequest| match &request.prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Tokens(tokens) => app.detokenize(PROMPT, tokens),
        Prompt::Chat(_) => Ok(String::new()),
    };
    requests.iter().map(text).collect()
}
