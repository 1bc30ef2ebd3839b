//! Many requests at once: who runs, what memory allows, what is shared.
use std::{num::NonZeroUsize, time::Duration};

use sparkv::KvChoice;
use sparkv_engine::{
    EngineConfig, GenerateError, Load, RequestError,
    core::{TokenEngine, TokenRequest, TokenStream},
};
use sparkv_models::fake::{CHUNK, FakeConfig, Probe};

use crate::support::{answer, collect, config, eventually, ids, ids_of, kv, request, start_with};

fn many(max_running: usize) -> EngineConfig {
    EngineConfig { max_running: NonZeroUsize::new(max_running).unwrap(), ..config(64) }
}

/// One that says just as many tokens as it is asked for.
fn endless(seed: u32, length: usize, max_tokens: usize) -> TokenRequest {
    TokenRequest { ignore_eos: true, ..request(seed, length, max_tokens) }
}

/// All of `requests`, before the model begins with the first.
fn submit_all(engine: &TokenEngine, probe: &Probe, requests: &[TokenRequest]) -> Vec<TokenStream> {
    probe.gate().close();
    let streams = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    probe.gate().open();
    streams
}

#[test]
fn requests_run_together_and_say_what_they_say_alone() {
    let fake = FakeConfig::default();
    for max_running in [1, 3, 16] {
        let (engine, probe) = start_with(&fake, many(max_running));
        let requests: Vec<_> = (0..12).map(|i| endless(i, 1 + 9 * i as usize, 20)).collect();
        let streams = submit_all(&engine, &probe, &requests);
        for (request, stream) in requests.iter().zip(streams) {
            assert_eq!(ids(stream), answer(&fake, request), "{max_running} at once");
        }
        assert_eq!((engine.load(), probe.held_bytes()), (Load::default(), 0));
    }
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let fake = FakeConfig { delay: Duration::from_millis(1), ..FakeConfig::default() };
    let (engine, probe) = start_with(&fake, many(4));
    let streams = submit_all(&engine, &probe, &[endless(1, 25 * CHUNK, 1), endless(2, CHUNK, 5)]);
    let [long, short] = <[TokenStream; 2]>::try_from(streams).unwrap();
    ids(short);
    assert_eq!(engine.load(), Load { running: 1, waiting: 0 }, "the long one is still at its prompt");
    ids(long);
}

/// Bytes that a request of the exact cache needs while it is computed whole: its rows in groups of 16, and what its
/// tokens hold on their way.
fn needed(tokens: usize) -> u64 {
    32 * tokens.next_multiple_of(16) as u64 + 16 * tokens as u64
}

#[test]
fn what_can_never_fit_is_refused_with_what_would() {
    let memory = needed(100);
    let (engine, _) = start_with(&FakeConfig::default(), EngineConfig { kv_memory: memory, ..many(4) });
    assert_eq!(ids(engine.submit(endless(1, 60, 40)).unwrap()).len(), 40);
    let refused = engine.submit(endless(1, 60, 80)).unwrap_err();
    let RequestError::TooMuchMemory { needed: wanted, budget, fitting, ref proposal, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!((wanted, budget), (needed(140), memory));
    assert_eq!(ids(engine.submit(endless(1, 60, fitting)).unwrap()).len(), fitting);
    assert!(matches!(engine.submit(endless(1, 60, fitting + 1)), Err(RequestError::TooMuchMemory { .. })));
    let message = refused.to_string();
    assert!(message.contains(&format!("max_tokens of {fitting} would fit")), "{message}");
    if let Some((preset, _)) = proposal {
        let kv = kv(&format!(r#"{{"preset": "{preset}"}}"#));
        assert_eq!(ids(engine.submit(TokenRequest { kv, ..endless(1, 60, 80) }).unwrap()).len(), 80);
    }
    // Who does not say how much gets what fits.
    let any = TokenRequest { max_tokens: None, ..endless(1, 60, 1) };
    assert_eq!(ids(engine.submit(any).unwrap()).len(), fitting);
}

#[test]
fn memory_is_promised_before_it_is_used_and_the_next_in_the_queue_waits_for_it() {
    // Slow enough that each is seen at work.
    let fake = FakeConfig { delay: Duration::from_millis(1), ..FakeConfig::default() };
    let memory = needed(64) + needed(16);
    let (engine, probe) = start_with(&fake, EngineConfig { kv_memory: memory, ..many(8) });
    let requests: Vec<_> = (0..6).map(|i| endless(i, 50, 10)).collect();
    let streams = submit_all(&engine, &probe, &requests);
    for (request, mut stream) in requests.iter().zip(streams) {
        for &id in &answer(&fake, request) {
            assert_eq!(ids_of(&[stream.blocking_next().unwrap().unwrap()]), [id]);
            assert!(probe.held_bytes() <= memory);
        }
    }
    assert_eq!(engine.stats().preemptions, 0, "two were taken up");
}

#[test]
fn who_came_last_gives_way_and_loses_no_token() {
    let fake = FakeConfig::default();
    // All prompts fit, but not all answers.
    let memory = 4 * needed(16) + 3 * 32 * 64;
    let (engine, probe) =
        start_with(&fake, EngineConfig { kv_memory: memory, headroom_tokens: 0, ..many(8) });
    for json in ["{}", r#"{"preset": "quality"}"#] {
        let requests: Vec<_> = (0..4).map(|i| TokenRequest { kv: kv(json), ..endless(i, 10, 100) }).collect();
        let preempted = engine.stats().preemptions;
        let streams = submit_all(&engine, &probe, &requests);
        for (request, stream) in requests.iter().zip(streams) {
            assert_eq!(ids(stream), answer(&fake, request), "{json}");
            assert!(probe.held_bytes() <= memory);
        }
        assert!(engine.stats().preemptions > preempted, "{json}: nobody gave way");
        assert_eq!((engine.load(), probe.held_bytes()), (Load::default(), 0));
    }
}

#[test]
fn with_headroom_nobody_is_taken_up_only_to_give_way() {
    let fake = FakeConfig::default();
    for (headroom_tokens, gives_way) in [(0, true), (100, false)] {
        // All of one and the prompt of another fit, but not all of both.
        let config = EngineConfig { kv_memory: needed(140) + 200, headroom_tokens, ..many(8) };
        let (engine, probe) = start_with(&fake, config);
        let requests: Vec<_> = (0..3).map(|i| endless(i, 40, 100)).collect();
        let streams = submit_all(&engine, &probe, &requests);
        for (request, stream) in requests.iter().zip(streams) {
            assert_eq!(ids(stream), answer(&fake, request));
        }
        assert_eq!(engine.stats().preemptions > 0, gives_way, "{headroom_tokens}");
    }
}

#[test]
fn a_full_queue_waits_for_memory_and_turns_away() {
    let fake = FakeConfig::default();
    let memory = needed(64);
    let config = EngineConfig { kv_memory: memory, max_queue: NonZeroUsize::new(2).unwrap(), ..many(8) };
    let (engine, probe) = start_with(&fake, config);
    probe.gate().close();
    let first = engine.submit(endless(1, 40, 10)).unwrap();
    eventually("the first runs", || probe.steps() == 1);
    let second = engine.submit(endless(2, 40, 10)).unwrap();
    probe.gate().allow(1);
    eventually("there was no memory for the second", || probe.steps() == 2);
    assert_eq!(engine.load(), Load { running: 1, waiting: 1 });
    let third = engine.submit(endless(3, 40, 10)).unwrap();
    assert_eq!(engine.submit(endless(4, 40, 10)).unwrap_err(), RequestError::QueueFull { max_queue: 2 });
    drop(second);
    let fourth = engine.submit(endless(4, 40, 10)).unwrap();
    probe.gate().open();
    for stream in [first, third, fourth] {
        assert_eq!(ids(stream).len(), 10);
    }
}

#[test]
fn requests_submitted_together_enter_the_queue_together_or_not_at_all() {
    let config = EngineConfig { max_queue: NonZeroUsize::new(2).unwrap(), ..many(1) };
    let (engine, probe) = start_with(&FakeConfig::default(), config);
    let requests = |count| (0..count).map(|seed| endless(seed, 10, 10)).collect::<Vec<_>>();
    assert_eq!(engine.submit_all(requests(4)).unwrap_err(), RequestError::QueueFull { max_queue: 2 });
    let late_fault = [requests(1), vec![endless(2, 0, 10)]].concat();
    assert!(matches!(engine.submit_all(late_fault), Err(RequestError::InvalidParam { .. })));
    assert_eq!((engine.load(), probe.steps()), (Load::default(), 0));
    for stream in engine.submit_all(requests(3)).unwrap() {
        assert_eq!(ids(stream).len(), 10);
    }
}

#[test]
fn time_that_is_up_ends_a_request_that_waits_and_at_work() {
    let fake = FakeConfig { delay: Duration::from_millis(2), ..FakeConfig::default() };
    let (engine, probe) = start_with(&fake, many(1));
    let hurried = |seed| TokenRequest { timeout: Some(Duration::from_millis(60)), ..endless(seed, 10, 200) };
    let (first, second) = (engine.submit(hurried(1)).unwrap(), engine.submit(hurried(2)).unwrap());
    let mut first = first;
    let mut heard = 0;
    let end = loop {
        match first.blocking_next().unwrap() {
            Ok(_) => heard += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(end, GenerateError::Deadline) && (1..200).contains(&heard), "{end} after {heard}");
    assert!(matches!(collect(second), Err(GenerateError::Deadline)));
    eventually("nothing is held", || engine.load() == Load::default() && probe.held_bytes() == 0);
    let patient = TokenRequest { timeout: Some(Duration::from_secs(600)), ..endless(3, 10, 5) };
    assert_eq!(ids(engine.submit(patient).unwrap()).len(), 5);
}

fn cached(engine: &TokenEngine, request: &TokenRequest) -> (Vec<u32>, usize) {
    let tokens = collect(engine.submit(request.clone()).unwrap()).unwrap();
    (ids_of(&tokens), tokens[0].cached_tokens)
}

#[test]
fn the_next_turn_does_not_compute_what_was_computed() {
    let fake = FakeConfig::default();
    let (engine, probe) = start_with(&fake, EngineConfig { prefix_cache: true, ..many(4) });
    let first = endless(1, 40, 20);
    let (said, found) = cached(&engine, &first);
    assert_eq!((&said, found), (&answer(&fake, &first), 0));
    // 40 of the prompt and 19 of the answer went through the model; they are shared by groups of 16.
    let mut second = TokenRequest { prompt: [first.prompt, said, vec![40; 10]].concat(), ..endless(1, 1, 9) };
    let steps = probe.steps();
    let (said, found) = cached(&engine, &second);
    assert_eq!((&said, found), (&answer(&fake, &second), 48));
    assert_eq!(probe.steps() - steps, 22usize.div_ceil(CHUNK) + 8);
    // Whatever else it asks of its cache, but not in another precision.
    second.kv = kv(r#"{"precision": "int8", "pruning": {"key_ratio": 0.5, "value_ratio": 0.5}}"#);
    assert_eq!(cached(&engine, &second), (said.clone(), 32), "its window's queries are needed");
    second.kv = kv(r#"{"precision": "f32"}"#);
    assert_eq!(cached(&engine, &second), (said, 0));
    assert_eq!(engine.stats().prefix_hits, 48 + 32);
    assert!(probe.held_bytes() > 0, "it is kept");
    let off = EngineConfig { prefix_cache: false, ..many(4) };
    let (engine, probe) = start_with(&fake, off);
    for _ in 0..2 {
        assert_eq!(cached(&engine, &second).1, 0);
    }
    assert_eq!(probe.held_bytes(), 0);
}

#[test]
fn a_prompt_is_shared_as_soon_as_it_is_computed() {
    let fake = FakeConfig::default();
    let (engine, probe) = start_with(&fake, EngineConfig { prefix_cache: true, ..many(4) });
    let first = endless(1, 80, 100);
    let mut running = engine.submit(first.clone()).unwrap();
    running.blocking_next().unwrap().unwrap();
    probe.gate().close();
    let second = TokenRequest { prompt: [&first.prompt[..], &[50; 5]].concat(), ..endless(1, 1, 5) };
    let held = probe.held_bytes();
    let stream = engine.submit(second.clone()).unwrap();
    probe.gate().open();
    let tokens = collect(stream).unwrap();
    assert_eq!(tokens[0].cached_tokens, 80);
    assert!(held < 3 * needed(100), "held once: {held}");
    assert_eq!(ids_of(&tokens), answer(&fake, &second));
    drop(running);
}

#[test]
fn a_compressed_conversation_is_continued_where_it_says_so() {
    let fake = FakeConfig::default();
    let (engine, probe) = start_with(&fake, EngineConfig { prefix_cache: true, ..many(4) });
    let balanced = |continues| kv(&format!(r#"{{"preset": "balanced", "continues": {continues}}}"#));
    for (continues, found) in [(false, 0), (true, 100 + 19)] {
        let kv: KvChoice = balanced(continues);
        let first = TokenRequest { kv: kv.clone(), ..endless(7, 100, 20) };
        let said = cached(&engine, &first).0;
        let prompt = [first.prompt, said, vec![40; 10]].concat();
        let second = TokenRequest { prompt, kv, ..endless(1, 1, 9) };
        let steps = probe.steps();
        assert_eq!(cached(&engine, &second), (answer(&fake, &second), found));
        assert_eq!(probe.steps() - steps, (130usize - found).div_ceil(CHUNK) + 8);
        // It went on: the first turn's cache is not there twice.
        assert_eq!(cached(&engine, &second), (answer(&fake, &second), 0));
    }
    // Not by others, nor with other settings.
    let first = TokenRequest { kv: balanced(true), ..endless(8, 100, 20) };
    let said = cached(&engine, &first).0;
    let prompt = [&first.prompt[..], &said, &[40; 10]].concat();
    let other = kv(r#"{"preset": "balanced", "window": 40, "continues": true}"#);
    assert_eq!(cached(&engine, &TokenRequest { prompt, kv: other, ..endless(1, 1, 9) }).1, 0);
}

/// While others run to their end, whoever waits for their memory is not tried at every step.
#[test]
fn who_waits_for_memory_is_tried_when_some_is_freed() {
    let fake = FakeConfig::default();
    let (engine, probe) = start_with(&fake, EngineConfig { kv_memory: needed(200), ..many(4) });
    let requests = [endless(1, 50, 100), endless(2, 150, 5)];
    let streams = submit_all(&engine, &probe, &requests);
    for (request, stream) in requests.iter().zip(streams) {
        assert_eq!(ids(stream), answer(&fake, request));
    }
    assert!(probe.steps() > 100, "{} steps", probe.steps());
    assert!(probe.caches_made() < 10, "{} caches for two requests", probe.caches_made());
}

#[test]
fn a_conversation_that_has_to_wait_keeps_its_cache() {
    let fake = FakeConfig::default();
    let kv = kv(r#"{"preset": "balanced", "continues": true}"#);
    let first = TokenRequest { kv: kv.clone(), ..endless(7, 100, 20) };
    let kept = EngineConfig { prefix_cache: true, ..many(4) };
    let (engine, probe) = start_with(&fake, kept);
    let said = cached(&engine, &first).0;
    // The conversation and another's prompt fit, but no more.
    let memory = probe.held_bytes() + needed(250);
    let (engine, probe) = start_with(&fake, EngineConfig { kv_memory: memory, ..kept });
    assert_eq!(cached(&engine, &first).0, said);
    let prompt = [&first.prompt[..], &said, &[40; 60]].concat();
    let second = TokenRequest { prompt, kv, ..endless(1, 1, 9) };
    let mut streams = submit_all(&engine, &probe, &[endless(2, 230, 20), second.clone()]);
    let tokens = collect(streams.pop().unwrap()).unwrap();
    assert_eq!(tokens[0].cached_tokens, 100 + 19);
    assert_eq!(ids_of(&tokens), answer(&fake, &second));
}

#[test]
fn what_is_kept_gives_way_to_what_runs_the_least_recent_first() {
    let fake = FakeConfig::default();
    let memory = 3 * 32 * 96 + needed(112);
    let config = EngineConfig { prefix_cache: true, kv_memory: memory, ..many(4) };
    let (engine, probe) = start_with(&fake, config);
    let again = |seed| cached(&engine, &endless(seed, 96, 1)).1;
    for seed in 0..3 {
        assert_eq!(again(seed), 0);
    }
    assert_eq!([again(0), again(1), again(2)], [80, 80, 80]);
    assert_eq!(again(0), 80);
    // New ones push out 1 and 2, not 0.
    let before = probe.held_bytes();
    assert!(before <= memory);
    for seed in 3..5 {
        assert_eq!(again(seed), 0);
        assert!(probe.held_bytes() <= memory);
    }
    assert_eq!(again(0), 80);
    assert_eq!(again(1), 0);
}
