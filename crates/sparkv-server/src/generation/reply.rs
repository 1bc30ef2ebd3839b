//! From the engine's events to a response. Streamed or whole, the same events are read, so the text is the same.

use futures::stream::{self, BoxStream, SelectAll, Stream, StreamExt};
use serde::Serialize;
use serde_json::{Map, Value};
use sparkv_engine::{
    CallParser, Event, FinishReason, GenerateError, ParsedDelta, PromptToken, TextLogprob, Timings, Usage,
};

use crate::error::ApiError;
use crate::generation::instrumented::InstrumentedEvents;
use crate::generation::wire::Piece;

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// In pieces, as it arises.
    Stream(StreamUsage),
}

/// Which chunks of a stream report the usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamUsage {
    Never,
    /// A last one, without a choice; the others say null.
    Last,
    /// All of them, as far as the answers have come, and a last one.
    Everywhere,
}

/// What an answer goes on with.
#[derive(Debug)]
pub(crate) enum AnswerDelta {
    /// Text, and the log probabilities of its tokens if asked for.
    Text { text: String, logprobs: Vec<TextLogprob> },
    /// A call of a tool begins.
    Call { name: String },
    /// More of the JSON of the last call's arguments.
    Arguments(String),
}

/// How an answer ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    /// The stop string that ended it, if one did.
    pub(crate) stop: Option<String>,
    /// Whether it called a tool.
    pub(crate) called: bool,
    /// Where its time went.
    pub(crate) timings: Timings,
}

/// A call of a tool.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON, as the model wrote it.
    pub(crate) arguments: String,
}

impl Call {
    /// The arguments as an object, for endpoints whose clients get one. Those that were cut off are none at all: nobody
    /// should act on half of them.
    pub(crate) fn input(&self) -> Value {
        let input = serde_json::from_str(&self.arguments).ok().filter(Value::is_object);
        input.unwrap_or_else(|| Value::Object(Map::new()))
    }
}

/// A stretch of an answer.
#[derive(Debug)]
pub(crate) enum Item {
    Text { text: String, logprobs: Vec<TextLogprob> },
    Call(Call),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the model thinks of the prompt, if that was asked for.
    pub(crate) prompt: Vec<PromptToken>,
    /// Texts and calls, in the order in which they were said; no two texts follow each other.
    pub(crate) items: Vec<Item>,
    pub(crate) end: End,
}

impl Answer {
    /// Takes what is next.
    fn push(items: &mut Vec<Item>, delta: AnswerDelta) {
        match (delta, items.last_mut()) {
            (AnswerDelta::Text { text: more, logprobs: those }, Some(Item::Text { text, logprobs })) => {
                text.push_str(&more);
                logprobs.extend(those);
            }
            (AnswerDelta::Text { text, logprobs }, _) => items.push(Item::Text { text, logprobs }),
            (AnswerDelta::Call { name }, _) => {
                items.push(Item::Call(Call { name, arguments: String::new() }))
            }
            (AnswerDelta::Arguments(more), Some(Item::Call(call))) => call.arguments.push_str(&more),
            // Arguments follow a call.
            (AnswerDelta::Arguments(_), _) => {}
        }
    }

    /// All text with its log probabilities, and all calls, for endpoints that tell them apart but not their order.
    pub(crate) fn sorted(items: Vec<Item>) -> (String, Vec<TextLogprob>, Vec<Call>) {
        let (mut all_text, mut all_logprobs, mut calls) = (String::new(), Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Text { text, logprobs } => {
                    all_text.push_str(&text);
                    all_logprobs.extend(logprobs);
                }
                Item::Call(call) => calls.push(call),
            }
        }
        (all_text, all_logprobs, calls)
    }
}

/// Answers on their way.
pub(crate) struct Answers {
    pub(crate) events: Vec<InstrumentedEvents>,
    /// Finds calls of tools in each, where there are tools.
    pub(crate) parser: Option<CallParser>,
}

/// How an endpoint writes its answers. Several are told apart by their index.
pub(crate) trait Reply: Send + 'static {
    /// Body of a whole answer.
    type Body: Serialize;
    /// Piece of a streamed one.
    type Piece: Piece;

    /// The whole answers, with what each of them cost.
    fn body(self, answers: Vec<Answer>, usage: Vec<Usage>) -> Self::Body;
    /// What a stream begins with.
    fn opening(&mut self) -> Vec<Self::Piece>;
    /// What the model thinks of the prompt of an answer; comes before the answer, if it was asked for.
    fn prompt(&mut self, _index: usize, _tokens: Vec<PromptToken>) -> Vec<Self::Piece> {
        Vec::new()
    }
    /// Tokens of an answer's prompt, and of the answer so far.
    fn count(&mut self, _index: usize, _prompt_tokens: usize, _completion_tokens: usize) {}
    /// More of an answer.
    fn add(&mut self, index: usize, delta: AnswerDelta) -> Vec<Self::Piece>;
    /// The end of an answer.
    fn end(&mut self, index: usize, end: End) -> Vec<Self::Piece>;
    /// The end of the stream, once all answers have ended.
    fn closing(&mut self, usage: Vec<Usage>) -> Vec<Self::Piece>;
    /// The end of a stream that failed.
    fn failed(&mut self, error: &ApiError) -> Vec<Self::Piece>;
}

/// What is heard of one answer.
enum Heard {
    Prompt(Vec<PromptToken>),
    /// Tokens of the answer so far, and of its prompt.
    Count {
        prompt_tokens: usize,
        completion_tokens: usize,
    },
    Delta(AnswerDelta),
    End(End, Usage),
}

type Hearing = (usize, Result<Heard, GenerateError>);

/// What is heard of all answers, as it arises, with their indexes.
fn listen(answers: Answers) -> SelectAll<BoxStream<'static, Hearing>> {
    let Answers { events, parser } = answers;
    let each = events.into_iter().enumerate().map(|(index, events)| {
        let source = Source { events, parser: parser.clone(), completion_tokens: 0 };
        let heard = stream::unfold(Some(source), hear);
        heard.flat_map(stream::iter).map(move |heard| (index, heard)).boxed()
    });
    stream::select_all(each)
}

/// One answer, as it comes from the engine.
struct Source {
    events: InstrumentedEvents,
    parser: Option<CallParser>,
    /// Tokens of it so far.
    completion_tokens: usize,
}

/// What the next event of an answer tells.
async fn hear(source: Option<Source>) -> Option<(Vec<Result<Heard, GenerateError>>, Option<Source>)> {
    let mut source = source?;
    Some(match source.events.next().await.unwrap_or(Err(GenerateError::Stopped)) {
        Ok(Event::Prompt(tokens)) => (vec![Ok(Heard::Prompt(tokens))], Some(source)),
        Ok(Event::Text { text, token_ids, logprobs }) => {
            source.completion_tokens += token_ids.len();
            let count = Heard::Count {
                prompt_tokens: source.events.prompt_tokens(),
                completion_tokens: source.completion_tokens,
            };
            let deltas = match &mut source.parser {
                Some(parser) => parser.push(&text),
                None => vec![ParsedDelta::Text(text)],
            };
            let heard = deltas_with(deltas, logprobs).map(Heard::Delta);
            ([count].into_iter().chain(heard).map(Ok).collect(), Some(source))
        }
        Ok(Event::Done { reason, stop, usage, timings }) => {
            let mut parser = source.parser;
            let last = parser.as_mut().map(CallParser::finish).unwrap_or_default();
            let called = parser.is_some_and(|parser| parser.has_called());
            let end = Heard::End(End { reason, stop, called, timings }, usage);
            (deltas_with(last, Vec::new()).map(Heard::Delta).chain([end]).map(Ok).collect(), None)
        }
        Err(error) => (vec![Err(error)], None),
    })
}

/// What came of an event, with its log probabilities, which go with the first text.
fn deltas_with(deltas: Vec<ParsedDelta>, logprobs: Vec<TextLogprob>) -> impl Iterator<Item = AnswerDelta> {
    let mut logprobs = Some(logprobs);
    deltas.into_iter().filter_map(move |delta| match delta {
        ParsedDelta::Text(text) => {
            let logprobs = logprobs.take().unwrap_or_default();
            (!text.is_empty() || !logprobs.is_empty()).then_some(AnswerDelta::Text { text, logprobs })
        }
        ParsedDelta::Call { name } => Some(AnswerDelta::Call { name }),
        ParsedDelta::Arguments(text) => Some(AnswerDelta::Arguments(text)),
    })
}

/// Waits for the last event of each answer.
pub(crate) async fn collect(answers: Answers) -> Result<(Vec<Answer>, Vec<Usage>), ApiError> {
    let mut collected: Vec<Vec<Item>> = answers.events.iter().map(|_| Vec::new()).collect();
    let mut prompts: Vec<Vec<PromptToken>> = collected.iter().map(|_| Vec::new()).collect();
    let mut ends: Vec<Option<(End, Usage)>> = collected.iter().map(|_| None).collect();
    let mut heard = listen(answers);
    while let Some((index, heard)) = heard.next().await {
        match heard? {
            Heard::Prompt(tokens) => prompts[index] = tokens,
            Heard::Count { .. } => {}
            Heard::Delta(delta) => Answer::push(&mut collected[index], delta),
            Heard::End(end, usage) => ends[index] = Some((end, usage)),
        }
    }
    let (mut answers, mut usages) = (Vec::new(), Vec::new());
    for ((prompt, items), end) in prompts.into_iter().zip(collected).zip(ends) {
        let (end, usage) = end.ok_or(GenerateError::Stopped)?;
        answers.push(Answer { prompt, items, end });
        usages.push(usage);
    }
    Ok((answers, usages))
}

/// A stream that is being written.
struct Writing<R> {
    heard: SelectAll<BoxStream<'static, Hearing>>,
    reply: R,
    /// What each answer cost, once it has ended.
    usage: Vec<Option<Usage>>,
}

/// The pieces of a response as they arise, or an error, and its end.
pub(crate) fn streamed<R: Reply>(
    answers: Answers,
    mut reply: R,
) -> impl Stream<Item = R::Piece> + Send + 'static {
    let usage = answers.events.iter().map(|_| None).collect();
    let opening = stream::iter(reply.opening());
    let writing = Writing { heard: listen(answers), reply, usage };
    let rest = stream::unfold(Some(writing), |writing| async {
        let mut writing = writing?;
        let Some((index, heard)) = writing.heard.next().await else {
            let Writing { mut reply, usage, .. } = writing;
            return Some((reply.closing(usage.into_iter().flatten().collect()), None));
        };
        Some(match heard {
            Ok(Heard::Prompt(tokens)) => (writing.reply.prompt(index, tokens), Some(writing)),
            Ok(Heard::Count { prompt_tokens, completion_tokens }) => {
                writing.reply.count(index, prompt_tokens, completion_tokens);
                (Vec::new(), Some(writing))
            }
            Ok(Heard::Delta(delta)) => (writing.reply.add(index, delta), Some(writing)),
            Ok(Heard::End(end, usage)) => {
                writing.usage[index] = Some(usage);
                (writing.reply.end(index, end), Some(writing))
            }
            Err(error) => {
                let error = ApiError::from(error);
                error.log();
                (writing.reply.failed(&error), None)
            }
        })
    });
    opening.chain(rest.flat_map(stream::iter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_calls_keep_their_order() {
        let text = |text: &str| AnswerDelta::Text { text: text.to_owned(), logprobs: Vec::new() };
        let call = |name: &str| AnswerDelta::Call { name: name.to_owned() };
        let arguments = |more: &str| AnswerDelta::Arguments(more.to_owned());
        let deltas =
            [text("I "), text("look."), call("f"), arguments("{"), arguments("}"), call("g"), text("So.")];
        let mut items = Vec::new();
        deltas.into_iter().for_each(|delta| Answer::push(&mut items, delta));
        let told = |item: &Item| match item {
            Item::Text { text, .. } => text.clone(),
            Item::Call(Call { name, arguments }) => format!("{name}({arguments})"),
        };
        assert_eq!(items.iter().map(told).collect::<Vec<_>>(), ["I look.", "f({})", "g()", "So."]);
        let (text, _, calls) = Answer::sorted(items);
        assert_eq!((&*text, calls.len()), ("I look.So.", 2));
    }
}
