//! Checks of tools, and what they make of an answer.

use serde_json::{Value, json};
use sparkv_engine::{CallParser, OutputFormat, Tool};

use crate::app::App;
use crate::chat::types::{FunctionBody, FunctionChoice, ToolBody, ToolChoice};
use crate::error::ApiError;

/// Characters of a tool's name.
const MAX_NAME: usize = 64;

/// Tools of a request.
const MAX_TOOLS: usize = 128;

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
    if tools.len() > MAX_TOOLS {
        let message = format!("at most {MAX_TOOLS} tools can be offered, got {}", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    let mut offered: Vec<Offered> = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        if tool.kind != "function" {
            return Err(ApiError::unsupported(format!("{path}.type"), "only functions can be called"));
        }
        let function = tool.function;
        let function = function
            .ok_or_else(|| ApiError::invalid(format!("{path}.function"), "a function is required"))?;
        let tool = check_function(&format!("{path}.function"), function)?;
        if offered.iter().any(|other| other.tool.name == tool.tool.name) {
            return Err(ApiError::invalid(format!("{path}.function.name"), "two tools have this name"));
        }
        offered.push(tool);
    }
    Ok(offered)
}

/// Checks one function; `path` is where it was found.
///
/// # Errors
/// If it has no name that can be told apart from text.
pub(crate) fn check_function(path: &str, function: FunctionBody) -> Result<Offered, ApiError> {
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
    const PARAM: &str = "tool_choice";
    let mode = match choice {
        None if tools.is_empty() => Mode::Never,
        None => Mode::Maybe,
        Some(ToolChoice::Mode(mode)) => match mode.as_str() {
            "none" => Mode::Never,
            "auto" if tools.is_empty() => Mode::Never,
            "auto" => Mode::Maybe,
            "required" => Mode::Any,
            _ => return Err(ApiError::invalid(PARAM, "must be none, auto, required or a function")),
        },
        Some(ToolChoice::Function(FunctionChoice { kind, function })) if kind == "function" => {
            if !tools.iter().any(|offered| offered.tool.name == function.name) {
                let message = format!("there is no tool `{}`", function.name);
                return Err(ApiError::invalid(format!("{PARAM}.function.name"), message));
            }
            Mode::Only(function.name)
        }
        Some(ToolChoice::Function(_)) => {
            return Err(ApiError::unsupported(format!("{PARAM}.type"), "only functions can be chosen"));
        }
    };
    if mode == Mode::Any && tools.is_empty() {
        return Err(ApiError::invalid(PARAM, "only allowed with tools"));
    }
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
    let parser = CallParser::new(app.tool_format(), names);
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
    (format.map(|format| (format, "tools")), Some(parser))
}
