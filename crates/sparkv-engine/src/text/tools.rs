//! How models write calls of tools, and how they are told which there are.
use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    lark::quoted,
    schema::{moved, prepared},
};
use crate::{
    chat::{Chat, ChatMessage, Tool},
    request::Otherwise,
};

/// How a model writes calls, as far as its chat template shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": ..}</tool_call>`, as Hermes and Qwen write it.
    Tagged {
        /// Whether the template tells the model of tools; if not, a system message does.
        in_template: bool,
    },
    /// An answer that is nothing but `{"name": .., "parameters": ..}`, as Llama 3 writes it.
    Json,
    /// `[TOOL_CALLS][{"name": .., "arguments": ..}]`, as Mistral writes it.
    List {
        /// The marker's token, where it is a special one.
        marker: Option<u32>,
    },
    /// `[TOOL_CALLS]name[ARGS]{..}`, as later models of Mistral's write it.
    Named {
        /// The marker's token, where it is a special one.
        marker: Option<u32>,
        /// That of what stands before arguments.
        args: Option<u32>,
    },
}

/// Marks the beginning of a call in [`ToolFormat::Tagged`].
pub(super) const OPEN: &str = "<tool_call>";

/// Marks its end.
pub(super) const CLOSE: &str = "</tool_call>";

/// Marks the beginning of all calls in [`ToolFormat::List`], and of each in [`ToolFormat::Named`].
pub(super) const LIST: &str = "[TOOL_CALLS]";

/// Stands between name and arguments in [`ToolFormat::Named`].
pub(super) const ARGS: &str = "[ARGS]";

impl ToolFormat {
    /// What a chat template asks for; `token` gives a special token's id.
    pub(super) fn of_template(source: Option<&str>, token: impl Fn(&str) -> Option<u32>) -> Self {
        let source = source.unwrap_or_default();
        if !source.contains("tools") {
            Self::Tagged { in_template: false }
        } else if source.contains(LIST) && source.contains(ARGS) {
            Self::Named { marker: token(LIST), args: token(ARGS) }
        } else if source.contains(LIST) {
            Self::List { marker: token(LIST) }
        } else if source.contains(OPEN) || !source.contains("parameters") {
            Self::Tagged { in_template: source.contains(OPEN) }
        } else {
            Self::Json
        }
    }

    /// The text of a special token that has to be seen in answers.
    pub(super) fn marker(&self, id: u32) -> Option<&'static str> {
        let (marker, args) = match self {
            Self::List { marker } => (*marker, None),
            Self::Named { marker, args } => (*marker, *args),
            Self::Tagged { .. } | Self::Json => (None, None),
        };
        let is = |token: Option<u32>| token == Some(id);
        if is(marker) { Some(LIST) } else { is(args).then_some(ARGS) }
    }

    /// A grammar, in llguidance's Lark, of calls of `tools`.
    pub(super) fn grammar(&self, tools: &[Tool], otherwise: &Otherwise, several: bool) -> String {
        let mut rules = String::new();
        let mut names = Vec::new();
        for (index, tool) in tools.iter().enumerate() {
            let call = match (self, otherwise) {
                // Both begin with the same brace, which is to be one lexeme.
                (Self::Json, Otherwise::Json { .. }) => format!("%json {}", call_schema(tool)),
                _ => {
                    let schema = prepared(tool.parameters.clone(), tool.strict);
                    format!("{}\narguments_{index}: %json {schema}", self.call(&tool.name, index))
                }
            };
            // Writing to a string cannot fail.
            let _ = writeln!(rules, "call_{index}: {call}");
            names.push(format!("call_{index}"));
        }
        let (calls, not_text) = match self {
            Self::Tagged { .. } => {
                let (open, close) = (quoted(&format!("{OPEN}\n")), quoted(&format!("\n{CLOSE}")));
                let more = if several { " (\"\\n\" tagged)*" } else { "" };
                (format!("tagged{more}\ntagged: {open} call {close}"), '<')
            }
            Self::Json => (format!("call{}", if several { " (\"; \" call)*" } else { "" }), '{'),
            Self::List { marker } => {
                let more = if several { " (\", \" call)*" } else { "" };
                (format!("{} \"[\" call{more} \"]\"", special(*marker, LIST)), '[')
            }
            Self::Named { .. } => (format!("call{}", if several { "+" } else { "" }), '['),
        };
        let (start, rest) = match otherwise {
            Otherwise::Nothing => ("calls", String::new()),
            Otherwise::Text => ("calls | TEXT", format!("TEXT: /([^{not_text}](.|\\n)*)?/\n")),
            Otherwise::Json { schema, strict } => {
                ("calls | answer", format!("answer: %json {}\n", prepared(schema.clone(), *strict)))
            }
        };
        format!("start: {start}\n{rest}calls: {calls}\ncall: {}\n{rules}", names.join(" | "))
    }

    /// The rule of a call of one tool, whose arguments are `arguments_index`.
    fn call(&self, name: &str, index: usize) -> String {
        let key = match self {
            Self::Named { marker, args } => {
                let (marker, args) = (special(*marker, LIST), special(*args, ARGS));
                return format!("{marker} {} {args} arguments_{index}", quoted(name));
            }
            Self::Json => "parameters",
            Self::Tagged { .. } | Self::List { .. } => "arguments",
        };
        let opening = format!(r#"{{"name": {}, "{key}": "#, Value::from(name));
        format!("{} arguments_{index} \"}}\"", quoted(&opening))
    }

    /// The conversation as the template can write it: where it knows no tools, they are described in a system
    /// message, calls are text of the assistant, and their answers are text of the user.
    pub(super) fn describe(&self, chat: Chat) -> Chat {
        let uses_tools = !chat.tools.is_empty()
            || chat.messages.iter().any(|message| !message.tool_calls.is_empty() || message.role == "tool");
        if *self != (Self::Tagged { in_template: false }) || !uses_tools {
            return chat;
        }
        let Chat { messages, tools, next, template_args } = chat;
        let mut messages: Vec<ChatMessage> = messages.into_iter().map(in_words).collect();
        if !tools.is_empty() {
            let description = description(&tools);
            match messages.first_mut() {
                Some(first) if first.role == "system" => {
                    first.content = format!("{}\n\n{description}", first.content);
                }
                _ => messages.insert(0, ChatMessage::new("system", description)),
            }
        }
        Chat { messages, tools: Vec::new(), next, template_args }
    }
}

/// A schema of whole calls in [`ToolFormat::Json`].
fn call_schema(tool: &Tool) -> Value {
    let parameters = moved(tool.parameters.clone(), "/properties/parameters");
    let call = json!({
        "type": "object",
        "properties": { "name": { "const": tool.name }, "parameters": parameters },
        "required": ["name", "parameters"],
        "additionalProperties": false,
    });
    prepared(call, tool.strict)
}

/// A special token in Lark, or its name where it is none.
fn special(token: Option<u32>, name: &str) -> String {
    token.map_or_else(|| quoted(name), |id| format!("<[{id}]>"))
}

fn description(tools: &[Tool]) -> String {
    let mut text = format!(
        "You may call the functions below. To call one, answer with a JSON object of its name and arguments:\n\
         {OPEN}\n{{\"name\": \"...\", \"arguments\": {{...}}}}\n{CLOSE}\nThe functions, one per line:"
    );
    for tool in tools {
        text.push('\n');
        text.push_str(&json!(tool).to_string());
    }
    text
}

/// A message without calls, or with a call's answer, as text.
fn in_words(message: ChatMessage) -> ChatMessage {
    let ChatMessage { role, mut content, tool_calls, .. } = message;
    if role == "tool" {
        return ChatMessage::new("user", format!("<tool_response>\n{content}\n</tool_response>"));
    }
    for call in tool_calls {
        if !content.is_empty() {
            content.push('\n');
        }
        let call = json!({ "name": call.name, "arguments": call.arguments });
        content.push_str(&format!("{OPEN}\n{call}\n{CLOSE}"));
    }
    ChatMessage::new(role, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ToolCall;

    fn tool(name: &str) -> Tool {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        Tool { name: name.to_owned(), description: Some("the weather".to_owned()), parameters, strict: false }
    }

    #[test]
    fn the_template_tells_the_format() {
        let of = |source: &str| ToolFormat::of_template(Some(source), |name| (name == LIST).then_some(5));
        assert_eq!(of("{{ messages }}"), ToolFormat::Tagged { in_template: false });
        assert_eq!(of("{% if tools %}<tool_call>{% endif %}"), ToolFormat::Tagged { in_template: true });
        assert_eq!(of("{% if tools %}[TOOL_CALLS]{% endif %}"), ToolFormat::List { marker: Some(5) });
        let named = ToolFormat::Named { marker: Some(5), args: None };
        assert_eq!(of("{% if tools %}[TOOL_CALLS]f[ARGS]{% endif %}"), named);
        assert_eq!(of("{% if tools %}\"parameters\"{% endif %}"), ToolFormat::Json);
        assert_eq!(ToolFormat::of_template(None, |_| None), ToolFormat::Tagged { in_template: false });
    }

    #[test]
    fn a_template_without_tools_gets_them_in_words() {
        let called =
            ToolCall { id: "1".to_owned(), name: "weather".to_owned(), arguments: json!({"city": "Bonn"}) };
        let messages = vec![
            ChatMessage::new("user", "How is it in Bonn?"),
            ChatMessage { tool_calls: vec![called], ..ChatMessage::new("assistant", "") },
            ChatMessage { tool_call_id: Some("1".to_owned()), ..ChatMessage::new("tool", "rain") },
        ];
        let chat = Chat { tools: vec![tool("weather")], ..Chat::from(messages.clone()) };
        insta::assert_json_snapshot!(ToolFormat::Tagged { in_template: false }.describe(chat).messages);
        // Nothing is said where there is nothing to say, or the template says it.
        let plain = Chat::from(messages[..1].to_vec());
        assert_eq!(ToolFormat::Tagged { in_template: false }.describe(plain.clone()), plain);
        let chat = Chat { tools: vec![tool("weather")], ..Chat::from(messages) };
        assert_eq!(ToolFormat::Json.describe(chat.clone()), chat);
    }

    #[test]
    fn grammars_by_format() {
        let tools = [tool("weather"), tool("say \"hi\"")];
        insta::assert_snapshot!(
            "tagged",
            ToolFormat::Tagged { in_template: true }.grammar(&tools, &Otherwise::Text, true)
        );
        insta::assert_snapshot!("json", ToolFormat::Json.grammar(&tools, &Otherwise::Nothing, true));
        let named = ToolFormat::Named { marker: Some(5), args: None };
        let json = Otherwise::Json { schema: json!({"type": "object"}), strict: true };
        insta::assert_snapshot!("named", named.grammar(&tools, &json, true));
        insta::assert_snapshot!(
            "list",
            ToolFormat::List { marker: Some(5) }.grammar(&tools, &Otherwise::Text, false)
        );
    }
}
