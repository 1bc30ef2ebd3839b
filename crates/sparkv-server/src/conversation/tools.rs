//! Checks of tools, and what they make of an answer.

use serde_json::{Value, json};
use sparkv_engine::{CallParser, OutputFormat, Tool};

use crate::app::App;
use crate::conversation::types::{FunctionBody, FunctionChoice, ToolBody, ToolChoice};
use crate::error::ApiError;

/// Characters of a tool's name.
const MAX_NAME: usize = 64;

/// Tools of a request.
const MAX_TOOLS: usize = 128;

/// The field that chooses.
const PARAM: &str = "tool_choice";

/// A tool, and whether its arguments have to keep to their schema.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) tool: Tool,
    pub(crate) strict: bool,
}

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
pub(crate) fn check(tools: Vec<ToolBody>) -> Result<Vec<Offered>, ApiError> {
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
) -> Result<Vec<Offered>, ApiError> {
    if tools.len() > MAX_TOOLS {
        let message = format!("at most {MAX_TOOLS} tools can be offered, got {}", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    let mut offered: Vec<Offered> = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let (path, function) = function(format!("tools[{index}]"), tool)?;
        let tool = check_function(&path, function)?;
        if offered.iter().any(|other| other.tool.name == tool.tool.name) {
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
fn check_function(path: &str, function: FunctionBody) -> Result<Offered, ApiError> {
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
    Ok(Offered { tool: Tool { name, description, parameters }, strict: strict.unwrap_or(false) })
}

/// Checks which tools are to be called.
///
/// # Errors
/// If it is none of those there are.
pub(crate) fn check_choice(
    choice: Option<ToolChoice>,
    parallel: Option<bool>,
    tools: &[Offered],
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
    tools: &[Offered],
) -> Result<Choice, ApiError> {
    let mode = match mode {
        Mode::Maybe if tools.is_empty() => Mode::Never,
        Mode::Any if tools.is_empty() => return Err(ApiError::invalid(PARAM, "only allowed with tools")),
        Mode::Only(name) if !tools.iter().any(|offered| offered.tool.name == name) => {
            return Err(ApiError::invalid(name_param, format!("there is no tool `{name}`")));
        }
        mode => mode,
    };
    let strict = tools.iter().any(|offered| offered.strict);
    Ok(Choice { mode, several: parallel.unwrap_or(true), strict })
}

/// What tools make of an answer: its format, with the field that asks for it, and what finds the calls.
///
/// Where the model is free to call or not, its answer is held to a format only if something is promised of its calls:
/// that arguments keep to their schemas, or that there is one call at most. It then calls or talks, not both.
pub(crate) fn calls(
    tools: &[Tool],
    choice: Choice,
    app: &App,
) -> (Option<(OutputFormat, &'static str)>, Option<CallParser>) {
    if tools.is_empty() {
        return (None, None);
    }
    let names = tools.iter().map(|tool| tool.name.clone()).collect();
    let format = |tools: Vec<Tool>, or_text, several| OutputFormat::ToolCalls { tools, or_text, several };
    let several = choice.several;
    let format = match choice.mode {
        Mode::Never => return (None, None),
        Mode::Maybe if choice.strict || !several => Some(format(tools.to_vec(), true, several)),
        Mode::Maybe => None,
        Mode::Any => Some(format(tools.to_vec(), false, several)),
        Mode::Only(name) => {
            let only = tools.iter().filter(|tool| tool.name == name).cloned();
            Some(format(only.collect(), false, false))
        }
    };
    let parser = CallParser::new(app.tool_format(), names, format.is_some());
    (format.map(|format| (format, "tools")), Some(parser))
}
