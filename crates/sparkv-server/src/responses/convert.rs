//! How /v1/responses writes its answers.

use axum::response::sse;
use serde::de::IgnoredAny;
use sparkv_engine::{FinishReason, TextLogprob, Usage};

use crate::error::{ApiError, ErrorFields};
use crate::generation::ids::{call_id, new_id, unix_time};
use crate::generation::logprobs::{ChatToken, tokens};
use crate::generation::reply::{Answer, AnswerDelta, Call, End, Item, Reply};
use crate::generation::wire::named;
use crate::responses::types::{
    Echo, IncompleteDetails, InputTokensDetails, OutputItem, OutputText, OutputTokensDetails, Place,
    ResponseBody, ResponseError, ResponseUsage, StreamEvent, Told,
};

const IN_PROGRESS: &str = "in_progress";
const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";

/// Writes the answer to one conversation.
pub(crate) struct ResponsesReply {
    /// The answer, as far as it has come.
    body: ResponseBody,
    /// Events so far.
    events: usize,
    /// Whether the last item goes on.
    open: bool,
    reason: FinishReason,
}

impl ResponsesReply {
    pub(crate) fn new(model: &str, echo: Echo) -> Self {
        let body = ResponseBody {
            id: new_id("resp"),
            object: "response",
            created_at: unix_time(),
            completed_at: None,
            status: IN_PROGRESS,
            error: None,
            incomplete_details: None,
            model: model.to_owned(),
            output: Vec::new(),
            usage: None,
            echo,
        };
        Self { body, events: 0, open: false, reason: FinishReason::Stop }
    }

    /// Begins an item.
    fn open(&mut self, item: OutputItem, events: &mut Vec<sse::Event>) {
        self.close(FinishReason::Stop, events);
        self.open = true;
        self.body.output.push(item);
        events.extend(self.tell_item("response.output_item.added"));
        if let Some(OutputItem::Message { content, .. }) = self.body.output.last_mut() {
            content.push(OutputText::new(String::new(), Vec::new()));
            events.extend(self.tell_part("response.content_part.added"));
        }
    }

    /// Ends the item that is open, if one is; `reason` is why nothing more comes.
    fn close(&mut self, reason: FinishReason, events: &mut Vec<sse::Event>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let output_index = self.body.output.len().saturating_sub(1);
        let Some(item) = self.body.output.last_mut() else { return };
        item.end(reason);
        match item {
            OutputItem::Message { id, content, .. } => {
                for part in content {
                    let place = Place { item_id: id, output_index, content_index: 0 };
                    let told = Told::TextDone { place, text: &part.text, logprobs: &part.logprobs };
                    events.push(tell(&mut self.events, "response.output_text.done", told));
                }
                events.extend(self.tell_part("response.content_part.done"));
            }
            OutputItem::FunctionCall { id: item_id, name, arguments, .. } => {
                let told = Told::ArgumentsDone { item_id, output_index, name, arguments };
                events.push(tell(&mut self.events, "response.function_call_arguments.done", told));
            }
        }
        events.extend(self.tell_item("response.output_item.done"));
    }

    /// More of the message that is open, or the first of a new one.
    fn text(&mut self, text: &str, logprobs: Vec<TextLogprob>) -> Vec<sse::Event> {
        let mut events = Vec::new();
        if !(self.open && matches!(self.body.output.last(), Some(OutputItem::Message { .. }))) {
            self.open(OutputItem::message(Vec::new()), &mut events);
        }
        let output_index = self.body.output.len().saturating_sub(1);
        if let Some(OutputItem::Message { id, content, .. }) = self.body.output.last_mut() {
            let logprobs = tokens(logprobs);
            let place = Place { item_id: id, output_index, content_index: 0 };
            let told = Told::TextDelta { place, delta: text, logprobs: &logprobs };
            events.push(tell(&mut self.events, "response.output_text.delta", told));
            if let Some(part) = content.last_mut() {
                part.text.push_str(text);
                part.logprobs.extend(logprobs);
            }
        }
        events
    }

    /// More of the arguments of the call that is open.
    fn arguments(&mut self, more: &str) -> Vec<sse::Event> {
        let output_index = self.body.output.len().saturating_sub(1);
        match self.body.output.last_mut() {
            Some(OutputItem::FunctionCall { id: item_id, arguments, .. }) => {
                arguments.push_str(more);
                let told = Told::ArgumentsDelta { item_id, output_index, delta: more };
                vec![tell(&mut self.events, "response.function_call_arguments.delta", told)]
            }
            // Arguments follow a call.
            _ => Vec::new(),
        }
    }

    /// Tells of the last item.
    fn tell_item(&mut self, kind: &'static str) -> Option<sse::Event> {
        let item = self.body.output.last()?;
        let told = Told::Item { output_index: self.body.output.len() - 1, item };
        Some(tell(&mut self.events, kind, told))
    }

    /// Tells of the part of the last item, which is a message.
    fn tell_part(&mut self, kind: &'static str) -> Option<sse::Event> {
        let output_index = self.body.output.len().saturating_sub(1);
        let Some(OutputItem::Message { id, content, .. }) = self.body.output.last() else { return None };
        let place = Place { item_id: id, output_index, content_index: 0 };
        Some(tell(&mut self.events, kind, Told::Part { place, part: content.last()? }))
    }

    /// Tells of the whole answer.
    fn tell_all(&mut self, kind: &'static str) -> sse::Event {
        tell(&mut self.events, kind, Told::Response { response: &self.body })
    }

    /// The end of the answer.
    fn finish(&mut self, usage: &[Usage]) {
        self.body.usage = usage.first().map(ResponseUsage::from);
        match self.reason {
            FinishReason::Stop => {
                self.body.status = COMPLETED;
                self.body.completed_at = Some(unix_time());
            }
            FinishReason::Length => {
                self.body.status = INCOMPLETE;
                self.body.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
            }
        }
    }
}

/// The next event of a stream that has had `events`.
fn tell(events: &mut usize, kind: &'static str, fields: Told<'_>) -> sse::Event {
    let sequence_number = *events;
    *events += 1;
    named(kind, &StreamEvent { kind, sequence_number, fields })
}

impl OutputItem {
    fn message(content: Vec<OutputText>) -> Self {
        Self::Message { id: new_id("msg"), role: "assistant", status: IN_PROGRESS, content }
    }

    fn call(name: String, arguments: String) -> Self {
        Self::FunctionCall { id: new_id("fc"), call_id: call_id(), name, arguments, status: IN_PROGRESS }
    }

    /// Nothing more comes, for `reason`. A call is complete if its arguments are, whatever cut the answer off.
    fn end(&mut self, reason: FinishReason) {
        match self {
            Self::Message { status, .. } => {
                *status = if reason == FinishReason::Stop { COMPLETED } else { INCOMPLETE };
            }
            Self::FunctionCall { status, arguments, .. } => {
                let is_whole = serde_json::from_str::<IgnoredAny>(arguments).is_ok();
                *status = if is_whole { COMPLETED } else { INCOMPLETE };
            }
        }
    }
}

impl OutputText {
    fn new(text: String, logprobs: Vec<ChatToken>) -> Self {
        Self { kind: "output_text", text, annotations: [], logprobs }
    }
}

impl From<&Usage> for ResponseUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            kv_cache: usage.kv_cache.clone(),
        }
    }
}

impl Reply for ResponsesReply {
    type Body = ResponseBody;
    type Piece = sse::Event;

    fn body(mut self, answers: Vec<Answer>, usage: Vec<Usage>) -> ResponseBody {
        for Answer { items, end, .. } in answers {
            self.reason = end.reason;
            self.body.output.extend(items.into_iter().map(|item| match item {
                Item::Text { text, logprobs } => {
                    OutputItem::message(vec![OutputText::new(text, tokens(logprobs))])
                }
                Item::Call(Call { name, arguments }) => OutputItem::call(name, arguments),
            }));
        }
        if self.body.output.is_empty() {
            let nothing = OutputText::new(String::new(), Vec::new());
            self.body.output.push(OutputItem::message(vec![nothing]));
        }
        if let Some((last, others)) = self.body.output.split_last_mut() {
            others.iter_mut().for_each(|item| item.end(FinishReason::Stop));
            last.end(self.reason);
        }
        self.finish(&usage);
        self.body
    }

    fn opening(&mut self) -> Vec<sse::Event> {
        vec![self.tell_all("response.created"), self.tell_all("response.in_progress")]
    }

    fn add(&mut self, _: usize, delta: AnswerDelta) -> Vec<sse::Event> {
        match delta {
            AnswerDelta::Text { text, logprobs } => self.text(&text, logprobs),
            AnswerDelta::Call { name } => {
                let mut events = Vec::new();
                self.open(OutputItem::call(name, String::new()), &mut events);
                events
            }
            AnswerDelta::Arguments(more) => self.arguments(&more),
        }
    }

    fn end(&mut self, _: usize, end: End) -> Vec<sse::Event> {
        let mut events = Vec::new();
        // An answer that says nothing is an empty message.
        if self.body.output.is_empty() {
            self.open(OutputItem::message(Vec::new()), &mut events);
        }
        self.reason = end.reason;
        self.close(end.reason, &mut events);
        events
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<sse::Event> {
        self.finish(&usage);
        let kind = match self.reason {
            FinishReason::Stop => "response.completed",
            FinishReason::Length => "response.incomplete",
        };
        vec![self.tell_all(kind)]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<sse::Event> {
        let ErrorFields { message, kind, param, code } = error.body().error;
        let told = Told::Error { code, message: &message, param: param.as_deref() };
        let told = tell(&mut self.events, "error", told);
        if let Some(last) = self.body.output.last_mut().filter(|_| self.open) {
            last.end(FinishReason::Length);
        }
        self.body.status = "failed";
        let code = if kind == "server_error" { kind } else { "invalid_prompt" };
        self.body.error = Some(ResponseError { code, message });
        vec![told, self.tell_all("response.failed")]
    }
}
