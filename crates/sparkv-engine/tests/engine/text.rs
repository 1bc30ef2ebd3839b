//! Prompts to text: templates, encoding, stop strings, streams.
use sparkv::Presets;
use sparkv_engine::{
    ChatMessage, Event, FinishReason, GenerateError, GenerateRequest, Load, Prompt, PromptLength,
    RequestError, TextEngine, TextModel, Usage,
};
use sparkv_models::fake::{self, BYTE_OFFSET, FakeConfig, FakeModel, Probe};
use tokenizers::{
    DecoderWrapper, Tokenizer,
    decoders::{sequence::Sequence, strip::Strip},
};
use tokio_stream::StreamExt;

use crate::support::{config, eventually};

/// A text that the fake model goes on from for long without an end token.
const PROMPT: &str = "Dear reader";

fn start(fake: &FakeConfig, template: Option<&str>) -> (TextEngine, Probe) {
    start_with(fake, template, fake::tokenizer().unwrap())
}

fn start_with(fake: &FakeConfig, template: Option<&str>, tokenizer: Tokenizer) -> (TextEngine, Probe) {
    let (model, probe) = FakeModel::new(fake.clone());
    let text = TextModel::new(tokenizer, template, Some("<s>"), Some("</s>"));
    (TextEngine::start(model, text, config(4), Presets::built_in().unwrap()).unwrap(), probe)
}

fn text_request(prompt: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateRequest::new(Prompt::Text(prompt.to_owned()))
    }
}

fn chat(messages: &[(&str, &str)]) -> GenerateRequest {
    let messages = messages.iter().map(|&(role, content)| ChatMessage::new(role, content));
    GenerateRequest::new(Prompt::Chat(messages.collect::<Vec<_>>().into()))
}

struct Answer {
    pieces: Vec<String>,
    token_ids: Vec<u32>,
    reason: FinishReason,
    usage: Usage,
}

impl Answer {
    fn text(&self) -> String {
        self.pieces.concat()
    }
}

fn gather(events: Vec<Result<Event, GenerateError>>) -> Answer {
    let (mut pieces, mut all_ids) = (Vec::new(), Vec::new());
    let mut done = None;
    for event in events {
        assert!(done.is_none(), "an event after the last");
        match event.unwrap() {
            Event::Prompt(_) => panic!("not asked for"),
            Event::Text { text, token_ids, .. } => {
                assert!(!token_ids.is_empty(), "text without a token");
                pieces.push(text);
                all_ids.extend(token_ids);
            }
            Event::Done { reason, usage, .. } => done = Some((reason, usage)),
        }
    }
    let (reason, usage) = done.unwrap();
    assert_eq!(usage.completion_tokens, all_ids.len());
    assert_eq!(usage.kv_cache.kept_tokens, usage.prompt_tokens + usage.completion_tokens - 1);
    Answer { pieces, token_ids: all_ids, reason, usage }
}

fn run(engine: &TextEngine, request: GenerateRequest) -> Answer {
    let mut stream = engine.generate(request).unwrap();
    gather(std::iter::from_fn(|| stream.blocking_next()).collect())
}

/// The text of tokens that are all ASCII bytes.
fn ascii(ids: &[u32]) -> String {
    ids.iter().map(|&id| char::from(u8::try_from(id - BYTE_OFFSET).unwrap())).collect()
}

/// What the fake model says after a text, for as long as it says no end token.
fn expected(fake: &FakeConfig, prompt: &str, max_tokens: usize) -> Vec<u32> {
    let mut prefix = vec![fake::BOS];
    prefix.extend(prompt.bytes().map(|byte| BYTE_OFFSET + u32::from(byte)));
    let ids = fake::greedy(fake, &prefix, max_tokens);
    assert_eq!(ids.len(), max_tokens, "choose another prompt: this answer ends by itself");
    ids
}

#[test]
fn a_text_is_continued() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, None);
    let answer = run(&engine, text_request(PROMPT, 30));
    let ids = expected(&fake, PROMPT, 30);
    assert_eq!(answer.token_ids, ids);
    assert_eq!(answer.text(), ascii(&ids));
    assert_eq!(answer.pieces.len(), 30, "a piece for each token");
    assert_eq!((answer.reason, answer.usage.prompt_tokens), (FinishReason::Length, 1 + PROMPT.len()));
    let mut tokens = vec![fake::BOS];
    tokens.extend(PROMPT.bytes().map(|byte| BYTE_OFFSET + u32::from(byte)));
    let same = run(&engine, GenerateRequest { prompt: Prompt::Tokens(tokens), ..text_request("", 30) });
    assert_eq!(same.token_ids, ids, "tokens are taken as they are");
}

#[test]
fn a_chat_is_rendered_and_begun_once() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, Some(fake::CHAT_TEMPLATE));
    let request = chat(&[("system", "Be brief."), ("user", "Hi")]);
    let answer = run(&engine, GenerateRequest { max_tokens: Some(20), ignore_eos: true, ..request });
    let rendered = "[system] Be brief.\n[user] Hi\n[assistant]";
    assert_eq!(answer.token_ids, expected(&fake, rendered, 20));
    assert_eq!(answer.usage.prompt_tokens, 1 + rendered.len(), "one <s>");
}

#[test]
fn bad_prompts_are_refused() {
    let (engine, _) = start(&FakeConfig::default(), Some(fake::CHAT_TEMPLATE));
    let refusal = |request| engine.generate(request).unwrap_err();
    let param = |request| match engine.generate(request) {
        Err(RequestError::InvalidParam { param, .. }) => param,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(chat(&[("bob", "Hi")])), RequestError::Template("unknown role bob".to_owned()));
    assert_eq!(param(chat(&[])), "messages");
    assert_eq!(param(GenerateRequest::new(Prompt::Tokens(vec![]))), "prompt");
    assert_eq!(
        param(GenerateRequest { stop: vec!["a".into(), String::new()], ..text_request("a", 5) }),
        "stop"
    );
    let long = "x".repeat(300);
    let exceeded =
        RequestError::ContextExceeded { limit: 256, prompt: PromptLength::Exactly(301), max_tokens: Some(5) };
    assert_eq!(refusal(text_request(&long, 5)), exceeded);
    assert_eq!(engine.load(), Load::default());
    let (engine, _) = start(&FakeConfig::default(), None);
    assert_eq!(engine.generate(chat(&[("user", "Hi")])).unwrap_err(), RequestError::NoChatTemplate);
    // An empty text still has its <s>.
    assert_eq!(run(&engine, text_request("", 3)).usage.prompt_tokens, 1);
}

#[test]
fn a_text_too_long_for_any_tokens_is_not_encoded() {
    let (engine, _) = start(&FakeConfig::default(), Some("{{ messages[0].content }}"));
    // The longest token is `</s>`, and the context holds 256.
    for (bytes, prompt) in [
        (4 * 256 - 4, PromptLength::Exactly(4 * 256 - 4)),
        (4 * 256 - 3, PromptLength::AtLeast(256)),
        (1 << 20, PromptLength::AtLeast(1 << 18)),
    ] {
        let error = engine.generate(chat(&[("user", &"x".repeat(bytes))])).unwrap_err();
        assert_eq!(error, RequestError::ContextExceeded { limit: 256, prompt, max_tokens: None }, "{bytes}");
    }
    let tokens = GenerateRequest::new(Prompt::Tokens(vec![BYTE_OFFSET; 300]));
    let prompt = PromptLength::Exactly(300);
    let exceeded = RequestError::ContextExceeded { limit: 256, prompt, max_tokens: None };
    assert_eq!(engine.generate(tokens).unwrap_err(), exceeded);
    let error = engine.generate(text_request(&"x".repeat(2000), 5)).unwrap_err().to_string();
    assert!(error.contains("at least 500 in the prompt, which leaves none to generate"), "{error}");
}

#[test]
fn what_fits_is_generated_if_that_is_asked() {
    let (engine, _) = start(&FakeConfig::default(), None);
    let request =
        |length: usize| GenerateRequest { fit_context: true, ..text_request(&"x".repeat(length - 1), 16) };
    for (prompt, expected) in [(200, 16), (240, 16), (241, 15), (255, 1)] {
        assert_eq!(run(&engine, request(prompt)).usage.completion_tokens, expected, "after {prompt}");
    }
    let full =
        RequestError::ContextExceeded { limit: 256, prompt: PromptLength::Exactly(256), max_tokens: None };
    assert_eq!(engine.generate(request(256)).unwrap_err(), full);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, None);
    let ids = expected(&fake, PROMPT, 40);
    let whole = ascii(&ids);
    // One token per byte: the stop string is spread over four of them.
    let stop = &whole[20..24];
    let at = whole.find(stop).unwrap();
    let request = GenerateRequest { stop: vec!["\u{e9}".into(), stop.into()], ..text_request(PROMPT, 200) };
    // The steps it takes to generate the stop string, and not one more.
    let steps = (1 + PROMPT.len()).div_ceil(fake::CHUNK) + at + 4 - 1;
    probe.gate().close();
    probe.gate().allow(steps);
    let answer = run(&engine, request);
    assert_eq!(answer.text(), &whole[..at]);
    assert_eq!(answer.reason, FinishReason::Stop);
    assert_eq!(answer.token_ids, &ids[..at + 4], "the stop string's tokens were generated");
    // What would have followed is cancelled: of a step that may have begun nothing comes.
    probe.gate().allow(1);
    eventually("it is freed", || probe.live_caches() == 0 && engine.load() == Load::default());
    assert!(probe.steps() <= steps + 1);
}

#[test]
fn the_beginning_of_a_stop_string_is_said_at_the_end() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, None);
    let whole = ascii(&expected(&fake, PROMPT, 40));
    let request = GenerateRequest { stop: vec![whole[17..40].to_owned()], ..text_request(PROMPT, 20) };
    let answer = run(&engine, request);
    assert_eq!(answer.text(), &whole[..20]);
    assert_eq!(answer.pieces.last().unwrap(), &whole[17..20], "held until it was clear");
    assert_eq!(answer.reason, FinishReason::Length);
}

#[test]
fn the_end_token_has_no_text() {
    // The end token is a letter here, as in models whose end token is not special to the tokenizer.
    let ids = expected(&FakeConfig::default(), PROMPT, 40);
    let fake = FakeConfig { eos_token_id: ids[25], ..FakeConfig::default() };
    let first = ids.iter().position(|&id| id == ids[25]).unwrap();
    let (engine, _) = start(&fake, None);
    let answer = run(&engine, GenerateRequest { ignore_eos: false, ..text_request(PROMPT, 40) });
    assert_eq!(answer.text(), ascii(&ids[..first]));
    assert_eq!(answer.token_ids, &ids[..=first]);
    assert_eq!(answer.reason, FinishReason::Stop);
    let answer = run(&engine, text_request(PROMPT, 40));
    assert_eq!(answer.text(), ascii(&ids), "ignored, it is a letter again");
}

#[test]
fn bytes_that_are_no_text_do_no_harm() {
    let fake = FakeConfig { says: BYTE_OFFSET..BYTE_OFFSET + 256, ..FakeConfig::default() };
    let (engine, _) = start(&fake, None);
    let answer = run(&engine, text_request(PROMPT, 90));
    assert_eq!(answer.token_ids, expected(&fake, PROMPT, 90));
    assert!(answer.text().contains('\u{fffd}'));
}

/// A model that says one byte for ever.
fn says_only(byte: u8) -> FakeConfig {
    let id = BYTE_OFFSET + u32::from(byte);
    FakeConfig { says: id..id + 1, eos_token_id: id, ..FakeConfig::default() }
}

#[test]
fn an_unfinished_character_is_replaced_at_the_end() {
    let (engine, _) = start(&says_only(0xe2), None);
    let answer = run(&engine, text_request(PROMPT, 3));
    assert_eq!(answer.pieces, ["\u{fffd}\u{fffd}\u{fffd}"]);
    // Held back text can complete a stop string, too.
    let stop = vec!["\u{fffd}\u{fffd}".to_owned()];
    let answer = run(&engine, GenerateRequest { stop, ..text_request(PROMPT, 3) });
    assert_eq!((answer.text(), answer.reason), (String::new(), FinishReason::Stop));
}

#[test]
fn a_completion_keeps_its_leading_space_and_an_answer_does_not() {
    // Like sentencepiece's, this decoder drops the first space of what it is given.
    let mut tokenizer = fake::tokenizer().unwrap();
    let byte_level = tokenizer.get_decoder().unwrap().clone();
    let strip = Strip::new(' ', 1, 0).into();
    tokenizer.with_decoder(Some(DecoderWrapper::Sequence(Sequence::new(vec![byte_level, strip]))));
    let (engine, _) = start_with(&says_only(b' '), Some(fake::CHAT_TEMPLATE), tokenizer);
    assert_eq!(run(&engine, text_request(PROMPT, 3)).text(), "   ");
    let request = GenerateRequest { max_tokens: Some(3), ignore_eos: true, ..chat(&[("user", "Hi")]) };
    assert_eq!(run(&engine, request).text(), "  ");
}

#[tokio::test]
async fn a_stream_can_be_read_in_three_ways() {
    let (engine, _) = start(&FakeConfig::default(), None);
    let request = || GenerateRequest { stop: vec!["zzzz".into()], ..text_request(PROMPT, 50) };
    let collected: Vec<_> = engine.generate(request()).unwrap().collect().await;
    let collected = gather(collected);
    let mut stream = engine.generate(request()).unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    assert!(stream.next().await.is_none());
    let awaited = gather(events);
    let blocking = tokio::task::spawn_blocking(move || run(&engine, request())).await.unwrap();
    for other in [awaited, blocking] {
        assert_eq!((&other.pieces, &other.token_ids), (&collected.pieces, &collected.token_ids));
    }
}

#[test]
fn dropping_a_stream_cancels() {
    let (engine, probe) = start(&FakeConfig::default(), None);
    probe.gate().close();
    let stream = engine.generate(text_request(PROMPT, 100)).unwrap();
    eventually("it runs", || probe.steps() == 1);
    drop(stream);
    probe.gate().allow(1);
    eventually("it is freed", || probe.live_caches() == 0 && engine.load() == Load::default());
    assert_eq!(probe.steps(), 1);
}

#[test]
fn many_clients_at_once() {
    let fake = FakeConfig::default();
    let (model, probe) = FakeModel::new(fake.clone());
    let text = TextModel::new(fake::tokenizer().unwrap(), None, None, None);
    let engine = TextEngine::start(model, text, config(32), Presets::built_in().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (engine, fake) = (engine.clone(), &fake);
            scope.spawn(move || {
                for turn in 0..3 {
                    let prompt = format!("client {client}, turn {turn}");
                    let request = GenerateRequest { ignore_eos: false, ..text_request(&prompt, 30) };
                    let mut tokens = vec![fake::BOS];
                    tokens.extend(prompt.bytes().map(|byte| BYTE_OFFSET + u32::from(byte)));
                    assert_eq!(run(&engine, request).token_ids, fake::greedy(fake, &tokens, 30));
                }
            });
        }
    });
    assert_eq!((engine.load(), probe.live_caches()), (Load::default(), 0));
}
