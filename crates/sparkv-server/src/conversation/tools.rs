//! Checks of tools, and what they make of an answer.

use serde_json::{Value, json};
use sparkv_engine::{CallParser, Otherwise, OutputFormat, Tool};

use crate::app::App;
use crate::conversation::types::{FunctionBody, FunctionChoice, ToolBody, ToolChoice};
use crate::error::ApiError;
use crate::generation::format::AskedFormat;

/// Characters of a tool's name.
const MAX_NAME: usize = 64;

/// Tools of a request.
const MAX_TOOLS: usize = 128;

/// The field that chooses.
const PARAM: &str = "tool_choice";

/// Which tools are to be called, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) mode: Mode,
    /// Whether several may be called at once.
    pub(crate) several: bool,
    /// Whether there is a tool whose arguments have to keep to their schema.
    pub(crate) strict: bool,
}

/// Whether tools are to be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mode {
    Never,
    /// If the model finds it fit.
    Maybe,
    /// One or another.
    Any,
    /// This one.
    Only(String),
}

/// Checks tools.
///
/// # Errors
/// The first that cannot be offered.
pub(crate) fn check(tools: Vec<ToolBody>) -> Result<Vec<Tool>, ApiError> {
    check_each(tools, |path, tool| {
        if tool.kind != "function" {
            return Err(ApiError::unsupported(format!("{path}.type"), "only functions can be called"));
        }
        let path = format!("{path}.function");
        match tool.function {
            Some(function) => Ok((path, function)),
            None => Err(ApiError::invalid(path, "a function is required")),
        }
    })
}

/// Checks tools of any endpoint. `function` is told where a tool is, and finds the function in it, and where that is.
///
/// # Errors
/// The first that cannot be offered.
pub(crate) fn check_each<T>(
    tools: Vec<T>,
    mut function: impl FnMut(String, T) -> Result<(String, FunctionBody), ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    if tools.len() > MAX_TOOLS {
        let message = format!("at most {MAX_TOOLS} tools can be offered, got {}", tools.len());
        return Err(ApiError::invalid(TOOLS, message));
    }
    let mut offered: Vec<Tool> = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let (path, function) = function(format!("tools[{index}]"), tool)?;
        let tool = check_function(&path, function)?;
        if offered.iter().any(|other| other.name == tool.name) {
            return Err(ApiError::invalid(format!("{path}.name"), "two tools have this name"));
        }
        offered.push(tool);
    }
    Ok(offered)
}

/// Checks one function; `path` is where it was found.
///
/// # Errors
/// If it has no name that can be told apart from text.
fn check_function(path: &str, function: FunctionBody) -> Result<Tool, ApiError> {
    let FunctionBody { name, description, parameters, strict } = function;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_fit) {
        let message = format!("must have 1 to {MAX_NAME} letters, digits, _, - and .");
        return Err(ApiError::invalid(format!("{path}.name"), message));
    }
    let parameters = match parameters {
        Some(schema) => Value::Object(schema),
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
    };
    Ok(Tool { name, description, parameters, strict: strict.unwrap_or(false) })
}

/// Checks which tools are to be called.
///
/// # Errors
/// If it is none of those there are.
pub(crate) fn check_choice(
    choice: Option<ToolChoice>,
    parallel: Option<bool>,
    tools: &[Tool],
) -> Result<Choice, ApiError> {
    let mode = match choice {
        None => Mode::Maybe,
        Some(ToolChoice::Mode(mode)) => check_mode(&mode)?,
        Some(ToolChoice::Function(FunctionChoice { kind, function })) => {
            check_kind(&kind)?;
            Mode::Only(function.name)
        }
    };
    choose(mode, "tool_choice.function.name", parallel, tools)
}

/// A choice that is a word, as OpenAI has them.
///
/// # Errors
/// If it is another word.
pub(crate) fn check_mode(mode: &str) -> Result<Mode, ApiError> {
    match mode {
        "none" => Ok(Mode::Never),
        "auto" => Ok(Mode::Maybe),
        "required" => Ok(Mode::Any),
        _ => Err(ApiError::invalid(PARAM, "must be none, auto, required or a function")),
    }
}

/// The type of a choice that is an object.
///
/// # Errors
/// If it is no function.
pub(crate) fn check_kind(kind: &str) -> Result<(), ApiError> {
    match kind {
        "function" => Ok(()),
        _ => Err(ApiError::unsupported(format!("{PARAM}.type"), "only functions can be chosen")),
    }
}

/// Chooses among the tools there are; `name_param` is where a tool to be called is named.
///
/// # Errors
/// If it is none of those there are.
pub(crate) fn choose(
    mode: Mode,
    name_param: &str,
    parallel: Option<bool>,
    tools: &[Tool],
) -> Result<Choice, ApiError> {
    let mode = match mode {
        Mode::Maybe if tools.is_empty() => Mode::Never,
        Mode::Any if tools.is_empty() => return Err(ApiError::invalid(PARAM, "only allowed with tools")),
        Mode::Only(name) if !tools.iter().any(|tool| tool.name == name) => {
            return Err(ApiError::invalid(name_param, format!("there is no tool `{name}`")));
        }
        mode => mode,
    };
    let strict = tools.iter().any(|tool| tool.strict);
    Ok(Choice { mode, several: parallel.unwrap_or(true), strict })
}

/// The field that asks for calls.
const TOOLS: &str = "tools";

/// What tools make of an answer, which is to be in the format `asked` where it calls none; `None` if none can be called.
///
/// Where the model is free to call or not, its answer is held to a format only if something is promised of it: that
/// arguments keep to their schemas, that there is one call at most, or that other answers have a format. It then calls
/// or talks, not both.
///
/// # Errors
/// If that format is no JSON.
pub(crate) fn calls(
    tools: Vec<Tool>,
    choice: Choice,
    asked: Option<AskedFormat>,
    app: &App,
) -> Result<(Option<AskedFormat>, Option<CallParser>), ApiError> {
    if tools.is_empty() {
        return Ok((asked, None));
    }
    let several = choice.several;
    let names = tools.iter().map(|tool| tool.name.clone()).collect();
    let format = |param, tools, otherwise, several| {
        Some(AskedFormat { format: OutputFormat::ToolCalls { tools, otherwise, several }, param })
    };
    let format = match (choice.mode, asked) {
        (Mode::Never, asked) => return Ok((asked, None)),
        (Mode::Maybe, Some(AskedFormat { format: OutputFormat::JsonSchema { schema, strict }, param })) => {
            format(param, tools, Otherwise::Json { schema, strict }, several)
        }
        (Mode::Maybe, Some(AskedFormat { param, .. })) => {
            let reason = "with tools that may be called, other answers can be JSON, but no other format";
            return Err(ApiError::unsupported(param, reason));
        }
        (Mode::Maybe, None) if choice.strict || !several => format(TOOLS, tools, Otherwise::Text, several),
        (Mode::Maybe, None) => None,
        // Whatever else was asked for says nothing of calls.
        (Mode::Any, _) => format(TOOLS, tools, Otherwise::Nothing, several),
        (Mode::Only(name), _) => {
            let only = tools.into_iter().filter(|tool| tool.name == name).collect();
            format(TOOLS, only, Otherwise::Nothing, false)
        }
    };
    let parser = CallParser::new(app.tool_format(), names, format.is_some());
    Ok((format, Some(parser)))
}
