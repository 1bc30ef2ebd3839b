//! Checks of a body of /v1/messages.

use sparkv_engine::Prompt;

use crate::app::App;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::generation;
use crate::generation::validate::{Asked, Checked, Names};
use crate::messages::types::MessagesBody;
use crate::messages::{PROMPT, conversation};
use crate::refusals::Refusals;

const NAMES: Names =
    Names { prompt: PROMPT, max_tokens: "max_tokens", stop: "stop_sequences", format: "tools" };

/// Checks a body and makes the engine's request of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(body: MessagesBody, refusals: &mut Refusals, app: &App) -> Result<Checked, ApiError> {
    let MessagesBody { conversation, generation } = body;
    if generation.max_tokens.is_none() {
        return Err(ApiError::invalid(NAMES.max_tokens, "is required"));
    }
    let Conversation { chat, choice } = conversation::check(conversation, refusals)?;
    let tools = Some((chat.tools.clone(), choice));
    let asked = Asked {
        prompts: vec![Prompt::Chat(chat)],
        names: NAMES,
        default_max_tokens: None,
        logprobs: None,
        prompt_logprobs: None,
        may_be_empty: false,
        format: None,
        tools,
    };
    generation::validate::validate(generation, asked, refusals, app)
}
