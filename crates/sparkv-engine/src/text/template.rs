//! Chat templates: Jinja as transformers runs it.
use std::fmt;

use jiff::Zoned;
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde,
};
use minijinja_contrib::pycompat;

use super::{jinja_dialect::translated, tojson::to_json};
use crate::chat::{Chat, ChatMessage, Turn};

const NAME: &str = "chat_template";

/// Variables that a request's arguments cannot set.
const RESERVED: [&str; 7] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "raise_exception"];

/// Instructions that rendering may take: a conversation of a thousand messages takes some ten thousand.
const FUEL: u64 = 10_000_000;

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
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, String> {
        let broken = |error: &dyn fmt::Display| error.to_string();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(|error| broken(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(python_method);
        environment.add_test("iterable", is_iterable);
        minijinja_contrib::add_to_environment(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_global("bos_token", bos_token.unwrap_or_default());
        environment.add_global("eos_token", eos_token.unwrap_or_default());
        environment.add_template_owned(NAME, translated(source)).map_err(|error| broken(&error))?;
        Ok(Self { environment })
    }

    /// Renders a conversation. The error is the template's own message, or what is wrong with the template.
    pub(super) fn render(&self, chat: &Chat) -> Result<String, String> {
        let Chat { messages, tools, next, template_args } = chat;
        let mut variables = template_args.clone();
        for name in RESERVED {
            if variables.remove(name).is_some() {
                return Err(format!("`{name}` is not an argument of the template"));
            }
        }
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => Value::from(Serde(messages)),
                    add_generation_prompt => *next == Turn::Answer,
                    // transformers always defines these two, and templates ask whether they are none.
                    tools => if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) },
                    documents => (),
                    ..Value::from(Serde(variables))
                })
            })
            .map_err(|error| raised(&error).unwrap_or_else(|| error.to_string()))?;
        match (next, messages.last()) {
            (Turn::Continue, Some(last)) => cut_behind(rendered, &last.content),
            _ => Ok(rendered),
        }
    }

    /// Whether it shows what a system message says. One that takes no message at all is not blamed for that.
    pub(super) fn knows_system(&self) -> bool {
        // Nobody begins like this.
        const PROBE: &str = "\u{1}probe";
        let render = |roles: &[&str]| {
            self.render(&roles.iter().map(|&role| ChatMessage::new(role, PROBE)).collect::<Vec<_>>().into())
        };
        let shown = |text: String| text.matches(PROBE).count();
        match (render(&["system", "user"]).map(shown), render(&["user"]).map(shown)) {
            (Ok(both), Ok(1)) => both == 2,
            (Err(_), Ok(_)) => false,
            _ => true,
        }
    }
}

/// A conversation up to the end of its last message, without what the template writes behind it.
fn cut_behind(mut rendered: String, last: &str) -> Result<String, String> {
    // Templates may trim what they are given.
    let last = last.trim();
    let Some(at) = rendered.rfind(last) else {
        return Err("the template changes the last message, which therefore cannot be continued".to_owned());
    };
    rendered.truncate(at + last.len());
    Ok(rendered)
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

/// Python's None is not, though one can go through nothing.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Methods of Python's values.
fn python_method(
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let affix = || args.first().and_then(Value::as_str).unwrap_or_default();
    match (value.as_str(), method) {
        (Some(text), "removeprefix") => Ok(text.strip_prefix(affix()).unwrap_or(text).into()),
        (Some(text), "removesuffix") => Ok(text.strip_suffix(affix()).unwrap_or(text).into()),
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chat::{Tool, ToolCall};

    // Templates in the styles of widespread models: headers, instruction brackets, ChatML.
    const HEADERS: &str = include_str!("testdata/headers.jinja");
    const BRACKETS: &str = include_str!("testdata/brackets.jinja");
    const CHATML: &str = include_str!("testdata/chatml.jinja");

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, String> {
        let messages: Vec<ChatMessage> =
            messages.iter().map(|&(role, content)| ChatMessage::new(role, content)).collect();
        ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap().render(&Chat::from(messages))
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
        assert!(error.contains("unexpected end of input"), "{error}");
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

    fn chat(next: Turn) -> Chat {
        let messages = vec![ChatMessage::new("user", "Well?"), ChatMessage::new("assistant", " It is so ")];
        Chat { next, ..Chat::from(messages) }
    }

    #[test]
    fn the_last_message_can_be_continued() {
        let template = ChatTemplate::new(CHATML, Some("<s>"), Some("</s>")).unwrap();
        let open = template.render(&chat(Turn::Open)).unwrap();
        let answer = template.render(&chat(Turn::Answer)).unwrap();
        let continued = template.render(&chat(Turn::Continue)).unwrap();
        assert!(answer.starts_with(&open) && answer.len() > open.len(), "{answer}");
        assert!(open.starts_with(&continued) && continued.ends_with("It is so"), "{continued}");
        let deaf = ChatTemplate::new("nothing", None, None).unwrap();
        assert!(deaf.render(&chat(Turn::Continue)).unwrap_err().contains("cannot be continued"));
    }

    #[test]
    fn tools_calls_and_arguments_reach_the_template() {
        let source =
            "{{ tools | tojson }} {{ messages | tojson }} {{ enable_thinking }} {{ documents is none }}";
        let parameters = json!({"type": "object"});
        let tool =
            Tool { name: "f".to_owned(), description: Some("does".to_owned()), parameters, strict: false };
        let call = ToolCall { id: "c1".to_owned(), name: "f".to_owned(), arguments: json!({"a": [1]}) };
        let answer = ChatMessage {
            tool_call_id: Some("c1".to_owned()),
            name: Some("f".to_owned()),
            ..ChatMessage::new("tool", "3")
        };
        let messages =
            vec![ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") }, answer];
        let template_args = json!({"enable_thinking": false}).as_object().unwrap().clone();
        let chat = Chat { tools: vec![tool], template_args, ..Chat::from(messages) };
        let template = ChatTemplate::new(source, None, None).unwrap();
        insta::assert_snapshot!("tools", template.render(&chat).unwrap());
        let template_args = json!({"messages": []}).as_object().unwrap().clone();
        let refused = template.render(&Chat { template_args, ..chat }).unwrap_err();
        assert!(refused.contains("`messages` is not an argument"), "{refused}");
    }

    #[test]
    fn a_template_that_runs_away_is_stopped() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        let error = render(endless, &[("user", "a")]).unwrap_err();
        assert!(error.contains("fuel"), "{error}");
    }
}
