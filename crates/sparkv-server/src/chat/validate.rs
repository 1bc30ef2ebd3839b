//! Checks of a chat's body.

use sparkv_engine::Prompt;

use crate::app::App;
use crate::chat::types::ChatBody;
use crate::conversation::types::MESSAGES;
use crate::conversation::{self, Conversation};
use crate::error::ApiError;
use crate::generation;
use crate::generation::validate::{Asked, Checked, Names};
use crate::refusals::Refusals;

/// Checks a body and makes the engine's request of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(body: ChatBody, refusals: &mut Refusals, app: &App) -> Result<Checked, ApiError> {
    let ChatBody { conversation, logprobs, generation } = body;
    let Conversation { chat, choice } = conversation::check(conversation, refusals)?;
    let tools = Some((chat.tools.clone(), choice));
    let asked = Asked {
        prompts: vec![Prompt::Chat(chat)],
        names: Names::usual(MESSAGES),
        default_max_tokens: None,
        logprobs: logprobs.check()?,
        prompt_logprobs: None,
        may_be_empty: false,
        format: None,
        tools,
    };
    generation::validate::validate(generation, asked, refusals, app)
}
