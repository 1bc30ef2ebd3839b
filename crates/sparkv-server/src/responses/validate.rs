//! Checks of a body of /v1/responses.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sparkv_engine::{Chat, Prompt, Tool};

use crate::app::App;
use crate::conversation::Conversation;
use crate::conversation::tools::{self, Mode};
use crate::conversation::types::FunctionBody;
use crate::error::ApiError;
use crate::generation;
use crate::generation::fields::GenerationFields;
use crate::generation::format::{self, AskedFormat, Place};
use crate::generation::validate::{Asked, Checked, Names};
use crate::http::body::read_value;
use crate::refusals::Refusals;
use crate::responses::types::{
    Echo, FunctionChoice, Reasoning, ResponsesBody, TextBody, TextEcho, ToolBody, ToolChoice, ToolEcho,
};
use crate::responses::{PROMPT, items};
use crate::unsupported;

const NAMES: Names =
    Names { prompt: PROMPT, max_tokens: "max_output_tokens", stop: "stop", format: "text.format" };

/// What `include` may hold.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Pairs of `metadata`, and characters of their keys and values, as OpenAI has them.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);

/// Checks a body and makes the engine's request of it, and what the answer tells of it.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(
    body: ResponsesBody,
    refusals: &mut Refusals,
    app: &App,
) -> Result<(Checked, Echo), ApiError> {
    let mut generation = check_generation(body.generation)?;
    generation.max_tokens = body.max_output_tokens;
    check_metadata(body.metadata.as_ref())?;
    let tools = body.tools.unwrap_or_default();
    let offered = check_tools(tools.clone(), refusals)?;
    let choice = check_choice(body.tool_choice.as_ref(), body.parallel_tool_calls, &offered)?;
    let format = body.text.and_then(|text| check_text(text, refusals));
    let logprobs = check_include(body.include.unwrap_or_default(), body.top_logprobs)?;
    let default = &app.config().generation.sampling;
    let echo = Echo {
        background: false,
        instructions: body.instructions.clone(),
        max_output_tokens: body.max_output_tokens,
        metadata: body.metadata.unwrap_or_default(),
        parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
        previous_response_id: (),
        reasoning: Reasoning::default(),
        service_tier: "default",
        store: false,
        temperature: generation.temperature.unwrap_or(default.temperature),
        text: TextEcho { format: format.clone().unwrap_or_else(|| json!({ "type": "text" })) },
        tool_choice: body.tool_choice.unwrap_or_else(|| json!("auto")),
        tools: tools.into_iter().map(ToolEcho::from).collect(),
        top_logprobs: body.top_logprobs.unwrap_or(0),
        top_p: generation.top_p.unwrap_or(default.top_p),
        truncation: "disabled",
        user: body.user,
    };
    let messages = items::check(body.instructions, body.input, refusals)?;
    let template_args = body.chat_template_kwargs.unwrap_or_default();
    let chat = Chat { messages, template_args, ..Chat::default() };
    let Conversation { chat, choice } = Conversation::new(chat, offered, choice);
    let tools = Some((chat.tools.clone(), choice));
    let format = format.map(|format| format::check_response(NAMES.format, format, Place::Beside));
    let format = format.transpose()?.flatten().map(|format| AskedFormat { format, param: NAMES.format });
    let prompts = vec![Prompt::Chat(chat)];
    let default_max_tokens = None;
    let asked = Asked {
        prompts,
        names: NAMES,
        default_max_tokens,
        logprobs,
        prompt_logprobs: None,
        may_be_empty: false,
        format,
        tools,
    };
    Ok((generation::validate::validate(generation, asked, refusals, app)?, echo))
}

/// Refuses what goes by another name here.
fn check_generation(fields: GenerationFields) -> Result<GenerationFields, ApiError> {
    let by_another_name = [
        ("max_tokens", fields.max_tokens.is_some(), NAMES.max_tokens),
        ("max_completion_tokens", fields.max_completion_tokens.is_some(), NAMES.max_tokens),
        ("response_format", fields.formats.response_format.is_some(), NAMES.format),
    ];
    for (param, is_there, name) in by_another_name {
        if is_there {
            return Err(ApiError::unsupported(param, format!("its name is {name} here")));
        }
    }
    if fields.prompt_logprobs.is_some() {
        let reason =
            "a response has no place for what the model thinks of its input; chats and completions have";
        return Err(ApiError::unsupported("prompt_logprobs", reason));
    }
    if fields.n.is_some_and(|n| n != 1) {
        return Err(ApiError::unsupported("n", "a response is one answer"));
    }
    Ok(fields)
}

fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), ApiError> {
    let (pairs, key_chars, value_chars) = MAX_METADATA;
    let Some(metadata) = metadata else { return Ok(()) };
    let is_long = |(key, value): (&String, &String)| {
        key.chars().count() > key_chars || value.chars().count() > value_chars
    };
    if metadata.len() > pairs || metadata.iter().any(is_long) {
        let message =
            format!("has at most {pairs} pairs, of {key_chars} characters and {value_chars} at most");
        return Err(ApiError::invalid("metadata", message));
    }
    Ok(())
}

/// The format that the text is to have.
fn check_text(text: TextBody, refusals: &mut Refusals) -> Option<Value> {
    refusals.rest(&text.rest, "text", unsupported::text);
    text.format
}

fn check_tools(tools: Vec<ToolBody>, refusals: &mut Refusals) -> Result<Vec<Tool>, ApiError> {
    tools::check_each(tools, |path, tool| {
        let ToolBody { kind, name, description, parameters, strict, rest } = tool;
        if kind != "function" {
            return Err(ApiError::unsupported(format!("{path}.type"), "only functions can be called"));
        }
        refusals.rest(&rest, &path, unsupported::function);
        let name = name.ok_or_else(|| ApiError::invalid(format!("{path}.name"), "a function has a name"))?;
        Ok((path, FunctionBody { name, description, parameters, strict }))
    })
}

fn check_choice(
    choice: Option<&Value>,
    parallel: Option<bool>,
    tools: &[Tool],
) -> Result<tools::Choice, ApiError> {
    const PARAM: &str = "tool_choice";
    const NAME: &str = "tool_choice.name";
    let mode = match choice.map(|choice| read_value(PARAM, choice.clone())).transpose()? {
        None => Mode::Maybe,
        Some(ToolChoice::Mode(mode)) => tools::check_mode(&mode)?,
        Some(ToolChoice::Function(FunctionChoice { kind, name })) => {
            tools::check_kind(&kind)?;
            Mode::Only(name.ok_or_else(|| ApiError::invalid(NAME, "a function has a name"))?)
        }
    };
    tools::choose(mode, NAME, parallel, tools)
}

fn check_include(include: Vec<String>, top: Option<usize>) -> Result<Option<usize>, ApiError> {
    // Answers have nothing of all else that may be included.
    match (include.iter().any(|included| included == LOGPROBS), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::invalid("top_logprobs", format!("only allowed with {LOGPROBS} in include")))
        }
    }
}

impl From<ToolBody> for ToolEcho {
    fn from(tool: ToolBody) -> Self {
        let ToolBody { kind, name, description, parameters, strict, .. } = tool;
        Self { kind, name, description, parameters, strict: strict.unwrap_or(false) }
    }
}
