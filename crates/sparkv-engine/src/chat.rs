//! Conversations, as chat templates read them.
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, json};

/// A conversation, and what is to come next in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// What was said.
    pub messages: Vec<ChatMessage>,
    /// What the assistant may call.
    pub tools: Vec<Tool>,
    /// What comes next.
    pub next: Turn,
    /// Further variables of the template.
    pub template_args: Map<String, Value>,
}

/// What comes next in a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// A new message of the assistant.
    #[default]
    Answer,
    /// The rest of the last message.
    Continue,
    /// Whatever the model finds fit.
    Open,
}

impl From<Vec<ChatMessage>> for Chat {
    /// A conversation that the assistant is to answer.
    fn from(messages: Vec<ChatMessage>) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
    /// What the assistant thought before it said that, for templates that show it.
    pub reasoning_content: Option<String>,
    /// What the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` answers.
    pub tool_call_id: Option<String>,
    /// The speaker's name, or that of the tool that answers.
    pub name: Option<String>,
}

impl ChatMessage {
    /// A message that is text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

impl Serialize for ChatMessage {
    /// In the shape that templates expect: fields that are not used are absent, arguments are objects.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("role", &self.role)?;
        fields.serialize_entry("content", &self.content)?;
        if let Some(reasoning) = &self.reasoning_content {
            fields.serialize_entry("reasoning_content", reasoning)?;
        }
        if !self.tool_calls.is_empty() {
            fields.serialize_entry("tool_calls", &self.tool_calls)?;
        }
        if let Some(id) = &self.tool_call_id {
            fields.serialize_entry("tool_call_id", id)?;
        }
        if let Some(name) = &self.name {
            fields.serialize_entry("name", name)?;
        }
        fields.end()
    }
}

/// A call that the assistant made.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// By which its answer refers to it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// What it was called with: an object, or the text of one that was cut off.
    pub arguments: Value,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { id, name, arguments } = self;
        json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
            .serialize(serializer)
    }
}

/// A function that the assistant may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON schema of its arguments, an object.
    pub parameters: Value,
    /// Whether arguments have to keep to all of the schema, or may be held to as much of it as can be.
    pub strict: bool,
}

impl Serialize for Tool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { name, description, parameters, strict: _ } = self;
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(name));
        if let Some(description) = description {
            function.insert("description".to_owned(), json!(description));
        }
        function.insert("parameters".to_owned(), parameters.clone());
        json!({ "type": "function", "function": function }).serialize(serializer)
    }
}
