//! Checks of bodies of /api/chat and /api/generate. Those that ask for nothing ask whether the model is loaded.

use serde_json::{Map, Value, json};
use sparkv_engine::{Chat, ChatMessage, OutputFormat, Prompt, Tool};

use crate::app::App;
use crate::conversation::tools::Choice;
use crate::conversation::types::{Content, ConversationFields, MESSAGES, Message as SaidMessage};
use crate::conversation::{self, Conversation};
use crate::error::ApiError;
use crate::generation;
use crate::generation::fields::GenerationFields;
use crate::generation::format::{AskedFormat, any_object};
use crate::generation::logprobs::LogprobFields;
use crate::generation::validate::{Asked, Checked, Names};
use crate::ollama::check_model;
use crate::ollama::options::{CheckedOptions, in_options};
use crate::ollama::types::{ChatBody, CommonFields, GenerateBody, Message, PROMPT, PromptFields, Think};
use crate::refusals::Refusals;

/// The field that asks for a format.
const FORMAT: &str = "format";

/// What is asked, the field that holds it, and the tools that may be called.
struct Question {
    prompt: Prompt,
    param: &'static str,
    tools: Option<(Vec<Tool>, Choice)>,
}

/// Checks a conversation and makes the engine's request of it; `None` if nothing was said.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn chat(body: ChatBody, refusals: &mut Refusals, app: &App) -> Result<Option<Checked>, ApiError> {
    let ChatBody { conversation, common, logprobs } = body;
    let messages = conversation.messages.unwrap_or_default();
    let question = if messages.is_empty() {
        None
    } else {
        let continued = messages.last().is_some_and(is_begun);
        let said = messages.into_iter().enumerate();
        let said = said.map(|(index, message)| said_message(index, message, refusals)).collect();
        let fields = ConversationFields {
            messages: Some(said),
            tools: conversation.tools,
            tool_choice: None,
            parallel_tool_calls: None,
            chat_template_kwargs: Some(template_args(common.think.as_ref())),
            add_generation_prompt: Some(!continued),
            continue_final_message: Some(continued),
        };
        let Conversation { chat, choice } = conversation::check(fields, refusals)?;
        let tools = Some((chat.tools.clone(), choice));
        Some(Question { prompt: Prompt::Chat(chat), param: MESSAGES, tools })
    };
    check(common, &logprobs, question, refusals, app)
}

/// Checks a prompt and makes the engine's request of it; `None` if there is none.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn generate(
    body: GenerateBody,
    refusals: &mut Refusals,
    app: &App,
) -> Result<Option<Checked>, ApiError> {
    let GenerateBody { prompt: PromptFields { prompt, system, raw }, common, logprobs } = body;
    let system = system.filter(|system| !system.is_empty());
    let raw = raw.unwrap_or(false);
    if raw && system.is_some() {
        return Err(ApiError::invalid("raw", "a raw prompt is all that the model reads; leave out `system`"));
    }
    let question = prompt.filter(|prompt| !prompt.is_empty()).map(|prompt| {
        let has_template = app.tokenizer_info().chat_template.is_some();
        let prompt = if raw || (system.is_none() && !has_template) {
            Prompt::Text(prompt)
        } else {
            let system = system.map(|system| ChatMessage::new("system", system));
            let messages = system.into_iter().chain([ChatMessage::new("user", prompt)]).collect();
            let template_args = template_args(common.think.as_ref());
            Prompt::Chat(Chat { messages, template_args, ..Chat::default() })
        };
        Question { prompt, param: PROMPT, tools: None }
    });
    check(common, &logprobs, question, refusals, app)
}

/// Checks what both routes have.
fn check(
    common: CommonFields,
    logprobs: &LogprobFields,
    question: Option<Question>,
    refusals: &mut Refusals,
    app: &App,
) -> Result<Option<Checked>, ApiError> {
    let CommonFields { model, stream, format, options, think: _, kv_cache, cache_salt } = common;
    check_model(app, model.as_deref())?;
    let format = format.map(check_format).transpose()?.flatten();
    let CheckedOptions { generation, num_predict } = options.unwrap_or_default().check(refusals)?;
    let logprobs = logprobs.check()?;
    let Some(Question { prompt, param, tools }) = question else { return Ok(None) };
    let stream = Some(stream.unwrap_or(true));
    let fields = GenerationFields { stream, kv_cache, cache_salt, ..generation };
    let names =
        Names { prompt: param, max_tokens: "options.num_predict", stop: "options.stop", format: FORMAT };
    let asked = Asked {
        prompts: vec![prompt],
        names,
        default_max_tokens: num_predict,
        logprobs,
        prompt_logprobs: None,
        may_be_empty: false,
        format,
        tools,
    };
    generation::validate::validate(fields, asked, refusals, app).map_err(in_options).map(Some)
}

/// Whether a message is the beginning of the answer.
fn is_begun(message: &Message) -> bool {
    let has_text = message.content.as_ref().is_some_and(|text| !text.trim().is_empty());
    let calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    message.role.as_deref() == Some("assistant") && has_text && !calls
}

/// A message as chats have it.
fn said_message(index: usize, message: Message, refusals: &mut Refusals) -> SaidMessage {
    let Message { role, content, thinking, tool_calls, tool_name, tool_call_id, images, rest } = message;
    if images.is_some_and(|images| !images.is_empty()) {
        let param = format!("{MESSAGES}[{index}].images");
        refusals.note::<()>(Err(ApiError::unsupported(param, "the model reads text only")));
    }
    SaidMessage {
        role,
        content: content.map(Content::Text),
        refusal: None,
        reasoning_content: thinking,
        tool_calls,
        tool_call_id,
        name: tool_name,
        rest,
    }
}

/// What templates that can be told call it: Qwen3's, and those that gpt-oss and others have.
fn template_args(think: Option<&Think>) -> Map<String, Value> {
    let args = match think {
        None => json!({}),
        Some(Think::Whether(think)) => json!({ "enable_thinking": think }),
        Some(Think::HowMuch(effort)) => json!({ "enable_thinking": true, "reasoning_effort": effort }),
    };
    match args {
        Value::Object(args) => args,
        _ => Map::new(),
    }
}

fn check_format(format: Value) -> Result<Option<AskedFormat>, ApiError> {
    let format = match format {
        Value::String(word) if word.is_empty() => return Ok(None),
        Value::String(word) if word == "json" => any_object(),
        // As ollama has it: held to the schema as far as can be.
        schema @ Value::Object(_) => OutputFormat::JsonSchema { schema, strict: false },
        _ => return Err(ApiError::invalid(FORMAT, "must be `json`, or a JSON schema, which is an object")),
    };
    Ok(Some(AskedFormat { format, param: FORMAT }))
}
