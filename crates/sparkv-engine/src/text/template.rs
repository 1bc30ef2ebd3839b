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

#[cfg(test)]
mod tests {
    use super::*;

    // Templates in the styles of widespread models: headers, instruction brackets, ChatML.
    const HEADERS: &str = include_str!("testdata/headers.jinja");
    const BRACKETS: &str = include_str!("testdata/brackets.jinja");
    const CHATML: &str = include_str!("testdata/chatml.jinja");

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, String> {
        let messages: Vec<ChatMessage> = messages
            .iter()
            .map(|&(role, content)| ChatMessage { role: role.to_owned(), content: content.to_owned() })
            .collect();
        ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap().render(&messages)
    }

    const CHAT: &[(&str, &str)] = &[
        ("system", " Be brief. "),
        ("user", "What is 1 < 2 & \"3\"?\n"),
        ("assistant", "True.\u{e9}"),
        ("user", "{{ bos_token }} is not a variable here"),
    ];

    #[test]
    fn styles() {
        insta::assert_debug_snapshot!("headers", render(HEADERS, CHAT));
        insta::assert_debug_snapshot!("headers_without_system", render(HEADERS, &CHAT[1..2]));
        insta::assert_debug_snapshot!("brackets", render(BRACKETS, CHAT));
        insta::assert_debug_snapshot!("brackets_out_of_turn", render(BRACKETS, &CHAT[2..]));
        insta::assert_debug_snapshot!("chatml", render(CHATML, CHAT));
        insta::assert_debug_snapshot!("chatml_without_system", render(CHATML, &CHAT[1..2]));
    }

    #[test]
    fn refusals_are_in_the_template_s_words() {
        let source = "{%- macro check(m) %}{% if m.role != 'user' %}{{ raise_exception('no ' ~ m.role ~ ' here') }}{% endif %}{% endmacro %}\
            {%- for m in messages %}{{ check(m) }}{{ m.content }}{% endfor %}";
        assert_eq!(render(source, &[("user", "a")]), Ok("a".to_owned()));
        assert_eq!(render(source, &[("tool", "a")]), Err("no tool here".to_owned()));
    }

    #[test]
    fn a_broken_template_is_found_when_it_is_loaded() {
        let error = ChatTemplate::new("{% for m in messages %}", None, None).unwrap_err();
        assert!(matches!(error, TextModelError::Template(_)), "{error}");
        let error = render("{{ messages | no_such_filter }}", &[("user", "a")]).unwrap_err();
        assert!(error.contains("no_such_filter"), "{error}");
    }

    #[test]
    fn json_is_python_s() {
        let json =
            |expression: &str| render(&format!("{{{{ {expression} }}}}"), &[("user", "a<b'\u{e9}")]).unwrap();
        assert_eq!(json("messages[0] | tojson"), "{\"role\": \"user\", \"content\": \"a<b'\u{e9}\"}");
        assert_eq!(json("[1, true, none] | tojson(ensure_ascii=false)"), "[1, true, null]");
        assert_eq!(json("{'a': [1]} | tojson(indent=2)"), "{\n  \"a\": [\n    1\n  ]\n}");
        assert!(render("{{ 1 | tojson(sort_keys=true) }}", &[("user", "a")]).is_err());
    }

    #[test]
    fn the_time_is_now() {
        let format = "%Y-%m-%d %H:%M";
        let at = |time: &Zoned| jiff::fmt::strtime::format(format, time).unwrap();
        // A minute may end meanwhile.
        let before = at(&Zoned::now());
        let rendered = render(&format!("{{{{ strftime_now('{format}') }}}}"), &[("user", "a")]).unwrap();
        let after = at(&Zoned::now());
        assert!([before, after].contains(&rendered), "{rendered}");
        assert!(render("{{ strftime_now('%') }}", &[("user", "a")]).is_err());
    }

    #[test]
    fn python_methods_and_loop_controls() {
        let source = "{% for m in messages %}{% if m.content.strip().startswith('x') %}{% continue %}{% endif %}\
            {{ m.content.split('-')[-1] | trim }}{% if not loop.last %},{% endif %}{% endfor %}\
            {{ tools is none }}{{ nothing is defined }}{{ eos_token }}";
        let rendered = render(source, &[("user", "a-b "), ("user", " xy"), ("user", "c")]).unwrap();
        assert_eq!(rendered.to_lowercase(), "b,ctruefalse</s>");
    }
}
