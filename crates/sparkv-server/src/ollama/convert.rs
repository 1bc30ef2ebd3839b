//! How /api/chat and /api/generate write their answers.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sparkv_engine::{TextLogprob, Usage};

use crate::error::ApiError;
use crate::generation::ids::{call_id, finish_reason};
use crate::generation::logprobs::tokens;
use crate::generation::reply::{Answer, AnswerDelta, Call, End, Reply};
use crate::generation::wire::JsonLine;
use crate::ollama::types::{AnswerCall, AnswerFunction, AnswerMessage, Ending, ErrorLine, Line, Said};

/// Which of the routes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Generate,
}

/// Writes the answer to one request.
pub(crate) struct OllamaReply {
    route: Route,
    /// The name that was asked for.
    model: String,
    arrived: Instant,
    /// The call that is being made: clients get calls as a whole.
    call: Option<Call>,
    /// Calls that were told.
    calls: usize,
    end: Option<End>,
}

impl OllamaReply {
    /// To be made as the request arrives.
    pub(crate) fn new(route: Route, model: String) -> Self {
        Self { route, model, arrived: Instant::now(), call: None, calls: 0, end: None }
    }

    /// The answer to a request that asks for nothing.
    pub(crate) fn loaded(&self) -> Line {
        let ending = Ending { done: true, done_reason: Some("load"), ..Ending::default() };
        self.line(String::new(), Vec::new(), Vec::new(), ending)
    }

    fn line(
        &self,
        text: String,
        tool_calls: Vec<AnswerCall>,
        logprobs: Vec<TextLogprob>,
        ending: Ending,
    ) -> Line {
        let said = match self.route {
            Route::Chat => Said::Message(AnswerMessage { role: "assistant", content: text, tool_calls }),
            Route::Generate => Said::Response(text),
        };
        let logprobs = (!logprobs.is_empty()).then(|| tokens(logprobs));
        Line { model: self.model.clone(), created_at: Timestamp::now().to_string(), said, logprobs, ending }
    }

    /// Tells of the call that was being made, if one was.
    fn tell_call(&mut self) -> Option<JsonLine> {
        let call = self.call.take()?;
        let call = answer_call(self.calls, call);
        self.calls += 1;
        Some(JsonLine::new(&self.line(String::new(), vec![call], Vec::new(), Ending::default())))
    }

    /// How the answer ended, and what it cost.
    fn ending(&self, end: &End, usage: Option<Usage>) -> Ending {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let of = |seconds: f64| nanoseconds(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        Ending {
            done: true,
            done_reason: Some(finish_reason(end.reason)),
            total_duration: Some(nanoseconds(self.arrived.elapsed())),
            load_duration: Some(of(end.timings.queue_seconds)),
            prompt_eval_count: usage.as_ref().map(|usage| usage.prompt_tokens),
            prompt_eval_duration: Some(of(end.timings.prefill_seconds)),
            eval_count: usage.as_ref().map(|usage| usage.completion_tokens),
            // Clients divide by it, and the only token of an answer takes no time after the prompt.
            eval_duration: Some(of(end.timings.decode_seconds).max(1)),
            kv_cache: usage.map(|usage| usage.kv_cache),
        }
    }
}

fn answer_call(index: usize, call: Call) -> AnswerCall {
    let arguments = call.input();
    AnswerCall { id: call_id(), function: AnswerFunction { index, name: call.name, arguments } }
}

impl Reply for OllamaReply {
    type Body = Line;
    type Piece = JsonLine;

    fn body(self, answers: Vec<Answer>, usage: Vec<Usage>) -> Line {
        let usage = usage.into_iter().next();
        // There is one prompt, and one answer to it.
        let Some(Answer { items, end, .. }) = answers.into_iter().next() else { return self.loaded() };
        let (text, logprobs, calls) = Answer::sorted(items);
        let calls = calls.into_iter().enumerate().map(|(index, call)| answer_call(index, call)).collect();
        let ending = self.ending(&end, usage);
        self.line(text, calls, logprobs, ending)
    }

    fn opening(&mut self) -> Vec<JsonLine> {
        Vec::new()
    }

    fn add(&mut self, _: usize, delta: AnswerDelta) -> Vec<JsonLine> {
        match delta {
            AnswerDelta::Text { text, logprobs } => {
                let line = JsonLine::new(&self.line(text, Vec::new(), logprobs, Ending::default()));
                self.tell_call().into_iter().chain([line]).collect()
            }
            AnswerDelta::Call { name } => {
                let before = self.tell_call();
                self.call = Some(Call { name, arguments: String::new() });
                before.into_iter().collect()
            }
            AnswerDelta::Arguments(more) => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&more);
                }
                Vec::new()
            }
        }
    }

    fn end(&mut self, _: usize, end: End) -> Vec<JsonLine> {
        self.end = Some(end);
        self.tell_call().into_iter().collect()
    }

    fn closing(&mut self, usage: Vec<Usage>) -> Vec<JsonLine> {
        let Some(end) = self.end.take() else { return Vec::new() };
        let ending = self.ending(&end, usage.into_iter().next());
        vec![JsonLine::new(&self.line(String::new(), Vec::new(), Vec::new(), ending))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<JsonLine> {
        vec![JsonLine::new(&ErrorLine::from(error))]
    }
}
