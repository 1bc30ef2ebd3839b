//! What requests say about tokens beyond filters: penalties, biases, least lengths, stop tokens, log probabilities,
//! formats. With the demo model, whose tokens are pieces of words.
use std::num::NonZeroUsize;

use serde_json::{Value, json};
use sparkv::Presets;
use sparkv_engine::{
    CallParser, Chat, ChatMessage, EngineConfig, Event, FinishReason, GenerateError, GenerateRequest,
    Otherwise, OutputFormat, ParsedDelta, Prompt, RequestError, SamplingParams, TextEngine, TextLogprob,
    TextModel, Tool,
};
use sparkv_models::{LoadOptions, ModelSource, WeightFormat, load};

use crate::support::config;

fn engine() -> TextEngine {
    let options = LoadOptions { weights: WeightFormat::F32, ..LoadOptions::default() };
    let model = load(&ModelSource::Demo, &options, &()).unwrap();
    let text = TextModel::from_files(&model.text);
    let config = EngineConfig { max_running: NonZeroUsize::new(8).unwrap(), ..config(8) };
    TextEngine::start(model.decoder, text, config, Presets::built_in().unwrap()).unwrap()
}

fn asked(question: &str) -> GenerateRequest {
    let chat = Chat::from(vec![ChatMessage::new("user", question)]);
    GenerateRequest { max_tokens: Some(120), ..GenerateRequest::new(Prompt::Chat(chat)) }
}

#[derive(Debug)]
struct Answer {
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<TextLogprob>,
    reason: FinishReason,
}

fn answer(engine: &TextEngine, request: GenerateRequest) -> Result<Answer, GenerateError> {
    let mut events = engine.generate(request).unwrap();
    let (mut text, mut ids, mut all) = (String::new(), Vec::new(), Vec::new());
    loop {
        match events.blocking_next().unwrap()? {
            Event::Prompt(_) => panic!("not asked for"),
            Event::Text { text: more, token_ids, logprobs } => {
                text += &more;
                ids.extend(token_ids);
                all.extend(logprobs);
            }
            Event::Done { reason, .. } => return Ok(Answer { text, ids, logprobs: all, reason }),
        }
    }
}

fn sampling(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: Some(seed), ..SamplingParams::default() }
}

fn formatted(engine: &TextEngine, format: OutputFormat, seed: u64) -> Answer {
    let request = GenerateRequest { format: Some(format), sampling: sampling(seed), ..asked("Tell me.") };
    answer(engine, request).unwrap()
}

#[test]
fn a_bias_forces_and_forbids() {
    let engine = engine();
    let plain = answer(&engine, asked("Who are you?")).unwrap();
    let first = plain.ids[0];
    let biased = |bias: f32| GenerateRequest {
        sampling: SamplingParams { logit_bias: [(first, bias)].into(), ..SamplingParams::default() },
        max_tokens: Some(5),
        ..asked("Who are you?")
    };
    assert!(!answer(&engine, biased(-100.0)).unwrap().ids.contains(&first));
    assert_eq!(answer(&engine, biased(100.0)).unwrap().ids, [first; 5]);
}

#[test]
fn penalties_end_repetition() {
    let engine = engine();
    let said = |sampling: SamplingParams| {
        let request =
            GenerateRequest { sampling, ignore_eos: true, max_tokens: Some(200), ..asked("a a a a a a") };
        let mut ids = answer(&engine, request).unwrap().ids;
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    let plain = said(SamplingParams::default());
    let penalties = [
        SamplingParams { presence_penalty: 2.0, ..SamplingParams::default() },
        SamplingParams { frequency_penalty: 2.0, ..SamplingParams::default() },
        SamplingParams { repetition_penalty: 1.5, ..SamplingParams::default() },
    ];
    for sampling in penalties {
        let distinct = said(sampling.clone());
        assert!(distinct > plain, "{distinct} of 200 distinct, {plain} without {sampling:?}");
    }
}

#[test]
fn an_answer_ends_neither_too_soon_nor_past_a_stop_token() {
    let engine = engine();
    let plain = answer(&engine, asked("Who are you?")).unwrap();
    assert_eq!(plain.reason, FinishReason::Stop, "{plain:?}");
    let least = plain.ids.len() + 10;
    let longer = GenerateRequest {
        sampling: SamplingParams { min_tokens: least, ..SamplingParams::default() },
        ..asked("Who are you?")
    };
    assert!(answer(&engine, longer).unwrap().ids.len() > least - 1);
    let stopper = plain.ids[1];
    let stopped = GenerateRequest { stop_tokens: vec![stopper], ..asked("Who are you?") };
    let stopped = answer(&engine, stopped).unwrap();
    assert_eq!((stopped.ids.as_slice(), stopped.reason), (&plain.ids[..2], FinishReason::Stop));
    assert!(plain.text.starts_with(&stopped.text) && stopped.text.len() < plain.text.len());
    // Stop strings are not looked for before, either.
    let first = plain.text.chars().next().unwrap().to_string();
    let request = |min_tokens| GenerateRequest {
        stop: vec![first.clone()],
        sampling: SamplingParams { min_tokens, ..SamplingParams::default() },
        ..asked("Who are you?")
    };
    assert_eq!(answer(&engine, request(0)).unwrap().text, "");
    assert!(answer(&engine, request(3)).unwrap().ids.len() >= 3);
}

#[test]
fn log_probabilities_belong_to_the_text() {
    let engine = engine();
    let plain = answer(&engine, asked("Who are you?")).unwrap();
    assert!(plain.logprobs.is_empty());
    let sampling = SamplingParams { logprobs: Some(4), ..SamplingParams::default() };
    let with = answer(&engine, GenerateRequest { sampling, ..asked("Who are you?") }).unwrap();
    assert_eq!(with.ids, plain.ids);
    // All but the end-of-sequence token.
    assert_eq!(with.logprobs.len(), with.ids.len() - 1);
    let bytes: Vec<u8> = with.logprobs.iter().flat_map(|l| l.token.bytes.clone()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), with.text);
    for logprob in &with.logprobs {
        // Greedy: the token is the likeliest.
        assert_eq!(logprob.top[0], logprob.token);
        assert_eq!(logprob.top.len(), 4);
        assert!(logprob.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        assert!(logprob.top.iter().map(|top| top.logprob.exp()).sum::<f32>() <= 1.0 + 1e-5);
    }
}

#[test]
fn several_answers_have_a_seed_each() {
    let engine = engine();
    let hot = |seed| SamplingParams { temperature: 2.0, ..sampling(seed) };
    let request = GenerateRequest { sampling: hot(5), max_tokens: Some(16), ..asked("Who are you?") };
    let texts = |events: Vec<sparkv_engine::EventStream>| -> Vec<String> {
        let text = |mut events: sparkv_engine::EventStream| {
            let mut text = String::new();
            while let Some(event) = events.blocking_next() {
                if let Event::Text { text: more, .. } = event.unwrap() {
                    text += &more;
                }
            }
            text
        };
        events.into_iter().map(text).collect()
    };
    let three = texts(engine.generate_all(vec![request.clone()], NonZeroUsize::new(3).unwrap()).unwrap());
    assert!(three[0] != three[1] && three[1] != three[2], "{three:?}");
    let second = GenerateRequest { sampling: hot(6), ..request };
    assert_eq!(texts(vec![engine.generate(second).unwrap()]), three[1..2]);
}

fn strict(schema: Value) -> OutputFormat {
    OutputFormat::JsonSchema { schema, strict: true }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 10},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
            "kind": {"$ref": "#/$defs/kind"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false,
        "$defs": {"kind": {"enum": ["cat", "dog"]}},
    })
}

#[test]
fn answers_keep_to_a_schema() {
    let engine = engine();
    for seed in 0..20 {
        let answer = formatted(&engine, strict(schema()), seed);
        let value: Value = serde_json::from_str(&answer.text).unwrap_or_else(|_| panic!("{answer:?}"));
        assert_eq!(answer.reason, FinishReason::Stop);
        let age = value["age"].as_u64().unwrap();
        assert!((1..100).contains(&age), "{value}");
        assert!(["cat", "dog"].contains(&value["kind"].as_str().unwrap()), "{value}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 10, "{value}");
        assert!(value["tags"].as_array().unwrap().len() <= 2, "{value}");
        assert_eq!(value.as_object().unwrap().len(), 4);
    }
}

#[test]
fn answers_keep_to_other_languages() {
    let engine = engine();
    for seed in 0..5 {
        let text = formatted(&engine, OutputFormat::Regex("[a-c]{2,4}-[0-9]{3}".to_owned()), seed).text;
        let (letters, digits) = text.split_once('-').unwrap();
        assert!(letters.bytes().all(|b| (b'a'..=b'c').contains(&b)) && (2..=4).contains(&letters.len()));
        assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{text}");
        let lark = "start: \"sum: \" NUMBER (\" + \" NUMBER){1,2}\nNUMBER: /[1-9][0-9]?/".to_owned();
        let text = formatted(&engine, OutputFormat::Lark(lark), seed).text;
        let numbers: Vec<&str> = text.strip_prefix("sum: ").unwrap().split(" + ").collect();
        assert!(
            (2..=3).contains(&numbers.len()) && numbers.iter().all(|n| n.parse::<u8>().is_ok()),
            "{text}"
        );
        let choices = ["yes", "no", "it is \"so\""].map(str::to_owned).to_vec();
        let text = formatted(&engine, OutputFormat::Choice(choices.clone()), seed).text;
        assert!(choices.contains(&text), "{text}");
    }
}

#[test]
fn forced_calls_are_calls() {
    let engine = engine();
    let tool =
        |name: &str| Tool { name: name.to_owned(), description: None, parameters: schema(), strict: true };
    let tools = vec![tool("first"), tool("second")];
    let (mut calls, mut texts) = (0, 0);
    for seed in 0..12 {
        let or_text = seed % 2 == 0;
        let otherwise = if or_text { Otherwise::Text } else { Otherwise::Nothing };
        let format = OutputFormat::ToolCalls { tools: tools.clone(), otherwise, several: seed % 3 == 0 };
        let request = GenerateRequest {
            format: Some(format),
            sampling: sampling(seed),
            max_tokens: Some(400),
            ..asked("Call it.")
        };
        let answer = answer(&engine, request).unwrap();
        let names = vec!["first".to_owned(), "second".to_owned()];
        let mut parser = CallParser::new(engine.text().tool_format().clone(), names, true);
        let mut pieces = parser.push(&answer.text);
        pieces.extend(parser.finish());
        if !parser.has_called() {
            assert!(or_text, "{answer:?}");
            texts += 1;
            continue;
        }
        calls += 1;
        let mut arguments = String::new();
        for piece in pieces {
            match piece {
                ParsedDelta::Text(text) => panic!("{text:?} beside a call in {answer:?}"),
                ParsedDelta::Call { name } => {
                    assert!(name == "first" || name == "second");
                    arguments.clear();
                }
                ParsedDelta::Arguments(more) => arguments += &more,
            }
        }
        if answer.reason == FinishReason::Stop {
            let value: Value = serde_json::from_str(&arguments).unwrap();
            assert!(value["age"].is_u64(), "{value}");
        }
    }
    assert!(calls >= 6 && texts > 0, "{calls} calls, {texts} texts");
}

#[test]
fn a_grammar_that_cannot_be_is_refused() {
    let engine = engine();
    let refused = |format: OutputFormat| {
        let request = GenerateRequest { format: Some(format), ..asked("Tell me.") };
        match engine.generate(request) {
            Err(RequestError::Format(message)) => message,
            other => panic!("{:?}", other.map(drop)),
        }
    };
    refused(OutputFormat::Regex("[".to_owned()));
    refused(OutputFormat::Lark("start: missing".to_owned()));
    refused(strict(json!({"type": "no such type"})));
    refused(strict(json!({"$ref": "https://example.com/schema.json"})));
    let huge = "x".repeat(2 << 20);
    assert!(refused(OutputFormat::Choice(vec![huge])).contains("bytes"));
    let ignoring =
        GenerateRequest { ignore_eos: true, format: Some(OutputFormat::Regex("a".to_owned())), ..asked("a") };
    assert!(
        matches!(engine.generate(ignoring), Err(RequestError::InvalidParam { param, .. }) if param == "ignore_eos")
    );
    // Too much work, found out before or while it is done.
    let request = GenerateRequest {
        format: Some(OutputFormat::Lark("start: e\ne: e e | e e e | e e e e | \"a\"".to_owned())),
        max_tokens: Some(2000),
        ..asked("Tell me.")
    };
    if let Ok(mut events) = engine.generate(request) {
        let mut last = events.blocking_next();
        while let Some(Ok(_)) = last {
            last = events.blocking_next();
        }
        assert!(matches!(last, Some(Err(GenerateError::Grammar(_)))), "{last:?}");
    }
    // The engine goes on.
    assert_eq!(formatted(&engine, OutputFormat::Regex("abc".to_owned()), 1).text, "abc");
}
