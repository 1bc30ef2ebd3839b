//! How /v1/messages writes its answers.

use axum::response::sse;
use sparkv_engine::{FinishReason, Usage};

use crate::error::ApiError;
use crate::generation::ids::{call_id, new_id};
use crate::generation::reply::{Answer, AnswerDelta, Call, End, Item, Reply};
use crate::generation::wire::named;
use crate::messages::MarkedError;
use crate::messages::types::{Block, Delta, MessageBody, MessageUsage, StopBody, StreamEvent};

/// Writes the answer to one conversation.
pub(crate) struct MessagesReply {
    model: String,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Blocks begun so far.
    blocks: usize,
    open: Open,
    stop: StopBody,
}

/// What the block that is being written is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    ToolUse,
}

impl MessagesReply {
    pub(crate) fn new(model: &str, prompt_tokens: usize) -> Self {
        Self {
            model: model.to_owned(),
            prompt_tokens,
            blocks: 0,
            open: Open::Nothing,
            stop: StopBody::default(),
        }
    }

    fn message(self, content: Vec<Block>, stop: StopBody, usage: MessageUsage) -> MessageBody {
        let Self { model, .. } = self;
        MessageBody { id: new_id("msg"), kind: "message", role: "assistant", model, content, stop, usage }
    }

    /// Ends the block that is open, if one is.
    fn close(&mut self) -> Option<sse::Event> {
        let open = std::mem::replace(&mut self.open, Open::Nothing);
        (open != Open::Nothing).then(|| tell(&StreamEvent::ContentBlockStop { index: self.index() }))
    }

    /// Begins a block.
    fn begin(&mut self, open: Open, content_block: Block) -> Vec<sse::Event> {
        let closed = self.close();
        self.open = open;
        self.blocks += 1;
        let begun = tell(&StreamEvent::ContentBlockStart { index: self.index(), content_block });
        closed.into_iter().chain([begun]).collect()
    }

    /// The block that is being written.
    fn index(&self) -> usize {
        self.blocks.saturating_sub(1)
    }

    fn delta(&self, delta: Delta) -> sse::Event {
        tell(&StreamEvent::ContentBlockDelta { index: self.index(), delta })
    }
}

fn tell(event: &StreamEvent<'_>) -> sse::Event {
    named(event.name(), event)
}

fn empty_text() -> Block {
    Block::Text { text: String::new() }
}

/// A call's block.
fn tool_use(call: Call) -> Block {
    Block::ToolUse { id: call_id(), input: call.input(), name: call.name }
}

impl From<End> for StopBody {
    fn from(End { reason, stop, called, .. }: End) -> Self {
        let stop_reason = match reason {
            FinishReason::Length => "max_tokens",
            FinishReason::Stop if stop.is_some() => "stop_sequence",
            FinishReason::Stop if called => "tool_use",
            FinishReason::Stop => "end_turn",
        };
        Self { stop_reason: Some(stop_reason), stop_sequence: stop }
    }
}

impl From<&Usage> for MessageUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.completion_tokens,
            kv_cache: Some(usage.kv_cache.clone()),
        }
    }
}

impl MessageUsage {
    /// As far as it is known at the beginning.
    fn of_prompt(tokens: usize) -> Self {
        Self {
            input_tokens: tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: 0,
            output_tokens: 0,
            kv_cache: None,
        }
    }
}

impl Reply for MessagesReply {
    type Body = MessageBody;
    type Piece = sse::Event;

    fn body(self, answers: Vec<Answer>, usage: Vec<Usage>) -> MessageBody {
        let mut content = Vec::new();
        let mut stop = StopBody::default();
        for Answer { items, end, .. } in answers {
            stop = end.into();
            content.extend(items.into_iter().map(|item| match item {
                Item::Text { text, .. } => Block::Text { text },
                Item::Call(call) => tool_use(call),
            }));
        }
        // An answer that says nothing has a text all the same, which is where clients look.
        if content.is_empty() {
            content.push(empty_text());
        }
        let prompt_tokens = self.prompt_tokens;
        let usage = usage.first().map_or_else(|| MessageUsage::of_prompt(prompt_tokens), MessageUsage::from);
        self.message(content, stop, usage)
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        let (model, prompt_tokens) = (&self.model, self.prompt_tokens);
        let usage = MessageUsage::of_prompt(prompt_tokens);
        let message = Self::new(model, prompt_tokens).message(Vec::new(), StopBody::default(), usage);
        [StreamEvent::MessageStart { message: &message }, StreamEvent::Ping].iter().map(tell).collect()
    }

    fn add(&mut self, _: usize, delta: AnswerDelta) -> Vec<sse::Event> {
        match delta {
            AnswerDelta::Text { text, .. } => {
                let mut events = Vec::new();
                if self.open != Open::Text {
                    events.extend(self.begin(Open::Text, empty_text()));
                }
                events.push(self.delta(Delta::TextDelta { text }));
                events
            }
            AnswerDelta::Call { name } => {
                self.begin(Open::ToolUse, tool_use(Call { name, arguments: String::new() }))
            }
            AnswerDelta::Arguments(partial_json) => vec![self.delta(Delta::InputJsonDelta { partial_json })],
        }
    }

    fn end(&mut self, _: usize, end: End) -> Vec<sse::Event> {
        let mut events = Vec::new();
        if self.blocks == 0 {
            events.extend(self.begin(Open::Text, empty_text()));
        }
        events.extend(self.close());
        self.stop = end.into();
        events
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        let delta = std::mem::take(&mut self.stop);
        let usage = usage.first().map(MessageUsage::from);
        [StreamEvent::MessageDelta { delta, usage }, StreamEvent::MessageStop].iter().map(tell).collect()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<sse::Event> {
        vec![named("error", &MarkedError::new(error.status(), error.body()))]
    }
}
