//! Chat templates: Jinja as transformers runs it.
use std::fmt;

use jiff::Zoned;
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::model::TextModelError;
use crate::request::ChatMessage;

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
}

/// What a template said through `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Compiles `source` in the environment that transformers gives to chat templates.
    pub(super) fn new(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextModelError> {
        let broken = |error: &dyn fmt::Display| TextModelError::Template(error.to_string());
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(|error| broken(&error))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_global("bos_token", bos_token.unwrap_or_default());
        environment.add_global("eos_token", eos_token.unwrap_or_default());
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| broken(&error))?;
        Ok(Self { environment })
    }

    /// Renders `messages` up to where the assistant's answer begins. The error is the template's own message,
    /// or what is wrong with the template.
    pub(super) fn render(&self, messages: &[ChatMessage]) -> Result<String, String> {
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => Value::from(Serde(messages)),
                    add_generation_prompt => true,
                    // transformers always defines these two, and templates ask whether they are none.
                    tools => (),
                    documents => (),
                })
            })
            .map_err(|error| raised(&error).unwrap_or_else(|| error.to_string()))
    }
}

/// The message of `raise_exception`, if that is at the bottom of `error`.
fn raised(error: &Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The local time, formatted as C's `strftime` does.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Python's `json.dumps`, without the escapes that minijinja's own filter makes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: ensure_ascii is not supported"));
    }
    options.assert_all_used()?;
    match indent {
        Some(width) => dump(value, PrettyFormatter::with_indent(" ".repeat(width).as_bytes())),
        None => dump(value, PythonFormatter),
    }
}

fn dump(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let failed = |error: &dyn fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
    value.serialize(&mut serializer).map_err(|error| failed(&error))?;
    String::from_utf8(json).map_err(|error| failed(&error))
}

/// One line, with a space after every comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
