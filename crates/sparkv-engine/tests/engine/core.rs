//! Tokens, limits, usage, draining.
use std::time::Duration;

use sparkv::{Budget, Calibrations, KvChoice, KvSettings, KvUsage, Presets};
use sparkv_engine::{
    FinishReason, GenerateError, Load, PromptLength, RepetitionDetection, RequestError, SamplingParams,
    core::{TokenEngine, TokenRequest},
};
use sparkv_models::{
    LanguageModel, LogitsRows, LogitsWanted, ModelError, ModelInfo, SpanStep,
    fake::{self, FakeConfig, FakeModel},
};

use crate::support::{answer, collect, config, eventually, ids, ids_of, request, start};

#[test]
fn greedy_is_what_the_model_says() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, 4);
    for seed in 0..8 {
        let request = request(seed, 1 + 5 * seed as usize, 40);
        let expected = fake::greedy(&fake, &request.prompt, 40);
        assert_eq!(ids(engine.submit(request).unwrap()), expected);
    }
    assert_eq!(engine.load(), Load::default());
    assert_eq!(probe.live_caches(), 0);
}

/// A request whose greedy answer ends by itself, with at least two tokens, before `max_tokens`.
fn ending_request(fake: &FakeConfig, max_tokens: usize) -> TokenRequest {
    (0..)
        .map(|seed| request(seed, 9, max_tokens))
        .find(|r| (2..max_tokens).contains(&answer(fake, r).len()))
        .unwrap()
}

#[test]
fn an_answer_ends_with_the_end_token_or_at_the_limit() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, 4);
    let ends = ending_request(&fake, 100);
    let length = answer(&fake, &ends).len();
    let run = |request: TokenRequest| {
        let tokens = collect(engine.submit(request).unwrap()).unwrap();
        (tokens.len(), *ids_of(&tokens).last().unwrap(), tokens.last().unwrap().finish.unwrap())
    };
    assert_eq!(run(ends.clone()), (length, fake.eos_token_id, FinishReason::Stop));
    // The end token is what stops it, even where it is the last that fits.
    let fits = TokenRequest { max_tokens: Some(length), ..ends.clone() };
    assert_eq!(run(fits), (length, fake.eos_token_id, FinishReason::Stop));
    let short = TokenRequest { max_tokens: Some(length - 1), ..ends.clone() };
    let (tokens, last, reason) = run(short);
    assert_eq!((tokens, reason), (length - 1, FinishReason::Length));
    assert_ne!(last, fake.eos_token_id);
    let (tokens, _, reason) = run(TokenRequest { ignore_eos: true, ..ends });
    assert_eq!((tokens, reason), (100, FinishReason::Length));
}

#[test]
fn an_answer_that_repeats_itself_ends_where_asked() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, 4);
    let run = |repetition_detection| {
        let logit_bias = [(FakeConfig::default().says.start, 100.0)].into();
        let sampling = SamplingParams { logit_bias, repetition_detection, ..SamplingParams::default() };
        let tokens =
            collect(engine.submit(TokenRequest { sampling, ..request(3, 9, 100) }).unwrap()).unwrap();
        (tokens.len(), tokens.last().unwrap().finish.unwrap())
    };
    assert_eq!(run(None), (100, FinishReason::Length));
    assert_eq!(run(Some(RepetitionDetection::of_lines(5))), (40, FinishReason::Length));
}

#[test]
fn every_token_tells_what_the_cache_holds_and_where_time_went() {
    let fake = FakeConfig { delay: Duration::from_millis(2), ..FakeConfig::default() };
    let (engine, probe) = start(&fake, 4);
    probe.gate().close();
    let before = std::time::Instant::now();
    let first = engine.submit(TokenRequest { ignore_eos: true, ..request(1, 17, 5) }).unwrap();
    let second = engine.submit(TokenRequest { ignore_eos: true, ..request(2, 17, 5) }).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    probe.gate().open();
    for (nth, stream) in [first, second].into_iter().enumerate() {
        let tokens = collect(stream).unwrap();
        for (i, token) in tokens.iter().enumerate() {
            let KvUsage {
                preset,
                keys,
                values,
                eviction,
                prompt_tokens,
                kept_tokens,
                bytes,
                dense_bytes,
                bytes_per_token,
            } = &token.kv;
            assert_eq!((keys.as_str(), values.as_str(), eviction.as_str()), ("f16", "f16", "none"));
            // The token just drawn has not been through the model.
            assert_eq!((*prompt_tokens, *kept_tokens), (17, 17 + i));
            // 32 bytes a token, in groups of 16.
            assert_eq!((*bytes, *dense_bytes), (1024, 1024));
            assert_eq!((preset.as_str(), *bytes_per_token), ("exact", 1024.0 / (17 + i) as f64));
        }
        // Three chunks, then four tokens, 2 ms each.
        let timings = tokens.last().unwrap().timings;
        assert!(timings.prefill_seconds >= 0.006, "{timings:?}");
        assert!(timings.decode_seconds >= 0.008, "{timings:?}");
        assert!(tokens[0].timings.decode_seconds == 0.0);
        let all = timings.queue_seconds + timings.prefill_seconds + timings.decode_seconds;
        assert!(all <= before.elapsed().as_secs_f64(), "{timings:?}");
        assert!(nth == 0 || timings.queue_seconds >= 0.03, "waited for the first: {timings:?}");
    }
}

#[test]
fn context_limit() {
    let fake = FakeConfig { context_length: 50, ..FakeConfig::default() };
    let (engine, probe) = start(&fake, 4);
    let submit = |length, max_tokens| {
        engine.submit(TokenRequest { max_tokens, ignore_eos: true, ..request(3, length, 0) })
    };
    let exceeded = |prompt, max_tokens| RequestError::ContextExceeded {
        limit: 50,
        prompt: PromptLength::Exactly(prompt),
        max_tokens,
    };
    assert_eq!(ids(submit(30, Some(20)).unwrap()).len(), 20);
    assert_eq!(ids(submit(30, None).unwrap()).len(), 20);
    assert_eq!(ids(submit(49, None).unwrap()).len(), 1);
    assert_eq!(submit(30, Some(21)).unwrap_err(), exceeded(30, Some(21)));
    assert_eq!(submit(50, None).unwrap_err(), exceeded(50, None));
    assert_eq!(submit(50, Some(1)).unwrap_err(), exceeded(50, Some(1)));
    assert_eq!(submit(60, Some(usize::MAX)).unwrap_err(), exceeded(60, Some(usize::MAX)));
    assert!(ids(submit(50, Some(0)).unwrap()).is_empty());
    assert_eq!(submit(51, Some(0)).unwrap_err(), exceeded(51, Some(0)));
    assert_eq!(probe.live_caches(), 0);
    let message = exceeded(30, Some(21)).to_string();
    assert_eq!(
        message,
        "this model's maximum context length is 50 tokens; the request has 30 in the prompt and 21 to generate"
    );
}

#[test]
fn bad_requests_are_refused_by_name() {
    let (engine, _) = start(&FakeConfig::default(), 4);
    let param = |request: TokenRequest| match engine.submit(request) {
        Err(RequestError::InvalidParam { param, .. }) => param,
        other => panic!("{other:?}"),
    };
    let good = request(1, 5, 5);
    assert_eq!(param(TokenRequest { prompt: vec![], ..good.clone() }), "prompt");
    assert_eq!(param(TokenRequest { prompt: vec![5, 100_000], ..good.clone() }), "prompt");
    assert_eq!(param(TokenRequest { prompt_logprobs: Some(21), ..good.clone() }), "prompt_logprobs");
    let sampling = SamplingParams { top_p: 1.5, ..SamplingParams::default() };
    assert_eq!(param(TokenRequest { sampling, ..good }), "top_p");
    assert_eq!(engine.load(), Load::default());
}

#[test]
fn a_budget_picks_settings_or_is_refused() {
    let (engine, _) = start(&FakeConfig::default(), 4);
    let spend = |budget| {
        engine.submit(TokenRequest {
            kv: KvChoice::Budget(budget, Calibrations::built_in().unwrap()),
            ignore_eos: true,
            ..request(1, 150, 50)
        })
    };
    let preset = |budget| collect(spend(budget).unwrap()).unwrap()[0].kv.preset.clone();
    assert_eq!(preset(Budget::Bytes(1 << 30)), preset(Budget::Share(1.0)));
    let refusal = spend(Budget::Bytes(1)).unwrap_err();
    assert!(
        matches!(&refusal, RequestError::InvalidParam { param, .. } if param == "kv_cache.budget"),
        "{refusal}"
    );
    assert_eq!(engine.load(), Load::default());
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_else_runs() {
    let fake = FakeConfig::default();
    let (engine, _) = start(&fake, 64);
    let seeded = |seed| TokenRequest {
        sampling: SamplingParams {
            temperature: 1.5,
            top_k: 50,
            seed: Some(seed),
            ..SamplingParams::default()
        },
        ignore_eos: true,
        ..request(9, 12, 30)
    };
    let alone = ids(engine.submit(seeded(5)).unwrap());
    assert_eq!(alone, answer(&fake, &seeded(5)));
    assert_ne!(alone, ids(engine.submit(seeded(6)).unwrap()), "the seed does not matter");
    let crowd: Vec<_> = (0..20)
        .map(|i| engine.submit(if i % 3 == 0 { seeded(5) } else { request(i, 20, 10) }).unwrap())
        .collect();
    for (i, stream) in crowd.into_iter().enumerate() {
        let ids = ids(stream);
        if i % 3 == 0 {
            assert_eq!(ids, alone, "request {i}");
        }
    }
}

#[test]
fn an_abort_ends_what_was_taken() {
    let (engine, probe) = start(&FakeConfig::default(), 4);
    probe.gate().close();
    let streams: Vec<_> = (0..3).map(|i| engine.submit(request(i, 10, 10)).unwrap()).collect();
    eventually("the first request runs", || probe.steps() == 1);
    engine.abort();
    assert_eq!(engine.submit(request(9, 10, 10)).unwrap_err(), RequestError::Stopped);
    // The model stands still all the while: nobody waits for it.
    let streams: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            assert!(matches!(stream.blocking_next(), Some(Err(GenerateError::Stopped))));
            assert!(stream.blocking_next().is_none());
            stream
        })
        .collect();
    probe.gate().open();
    eventually("the thread ends", || !engine.is_alive());
    // The prompt's first chunk was under way; its second and the answer were not begun, though the streams live.
    assert_eq!((probe.steps(), probe.live_caches(), engine.load()), (1, 0, Load::default()));
    drop(streams);
}

#[test]
fn shutdown_finishes_what_was_taken() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, 4);
    probe.gate().close();
    let streams: Vec<_> = (0..3).map(|i| engine.submit(request(i, 10, 10)).unwrap()).collect();
    eventually("the first request runs", || probe.steps() == 1);
    assert_eq!(engine.load(), Load { running: 1, waiting: 2 });
    engine.shutdown();
    assert_eq!(engine.submit(request(9, 10, 10)).unwrap_err(), RequestError::Stopped);
    assert!(engine.is_alive(), "drains");
    probe.gate().open();
    for (i, stream) in (0..).zip(streams) {
        assert_eq!(ids(stream), answer(&fake, &request(i, 10, 10)));
    }
    eventually("the thread ends", || !engine.is_alive());
    assert_eq!(engine.submit(request(9, 10, 10)).unwrap_err(), RequestError::Stopped);
    assert_eq!(engine.load(), Load::default());
}

#[test]
fn dropping_the_handle_finishes_what_was_taken() {
    let fake = FakeConfig::default();
    let (engine, probe) = start(&fake, 4);
    probe.gate().close();
    let streams: Vec<_> = (0..2).map(|i| engine.submit(request(i, 10, 10)).unwrap()).collect();
    drop(engine);
    probe.gate().open();
    for (i, stream) in (0..).zip(streams) {
        assert_eq!(ids(stream), answer(&fake, &request(i, 10, 10)));
    }
}

/// A model whose caches cannot be freed: a bug that no sequence is to blame for.
struct Cursed(FakeModel);

#[derive(Debug)]
struct CursedCache(fake::FakeCache);

impl Drop for CursedCache {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("cursed"));
    }
}

impl LanguageModel for Cursed {
    type Cache = CursedCache;
    type Span = fake::FakeSpan;
    type Prefix = fake::FakePrefix;

    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn held_bytes(&self) -> u64 {
        self.0.held_bytes()
    }

    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<CursedCache, ModelError> {
        self.0.new_cache(settings, prompt_tokens).map(CursedCache)
    }

    fn share(&self, cache: &mut CursedCache) -> Option<(fake::FakePrefix, usize)> {
        self.0.share(&mut cache.0)
    }

    fn begin_with(
        &self,
        cache: &mut CursedCache,
        prefix: &fake::FakePrefix,
        most: usize,
    ) -> Result<usize, ModelError> {
        self.0.begin_with(&mut cache.0, prefix, most)
    }

    fn begin(
        &self,
        tokens: &[u32],
        wanted: LogitsWanted,
        cache: &CursedCache,
    ) -> Result<fake::FakeSpan, ModelError> {
        self.0.begin(tokens, wanted, &cache.0)
    }

    fn row_layers(&self, tokens: usize, logits: usize) -> usize {
        self.0.row_layers(tokens, logits)
    }

    fn step(
        &self,
        spans: &mut [SpanStep<'_, CursedCache, fake::FakeSpan>],
    ) -> Result<Vec<LogitsRows>, ModelError> {
        let spans = spans.iter_mut().map(|step| SpanStep {
            span: &mut *step.span,
            cache: &mut step.cache.0,
            row_layers: step.row_layers,
        });
        self.0.step(&mut spans.collect::<Vec<_>>())
    }

    fn truncate(&self, cache: &mut CursedCache, tokens: usize) -> Result<(), ModelError> {
        self.0.truncate(&mut cache.0, tokens)
    }

    fn span_bytes(&self, span: &fake::FakeSpan) -> u64 {
        self.0.span_bytes(span)
    }

    fn kv_usage(&self, cache: &CursedCache) -> KvUsage {
        self.0.kv_usage(&cache.0)
    }

    fn next_bytes(&self, cache: &CursedCache) -> u64 {
        self.0.next_bytes(&cache.0)
    }
}

#[test]
fn nobody_waits_for_an_engine_that_died() {
    let (model, probe) = FakeModel::new(FakeConfig::default());
    probe.gate().close();
    let engine = TokenEngine::start(Cursed(model), config(4), Presets::built_in().unwrap()).unwrap();
    let streams: Vec<_> = (0..3).map(|i| engine.submit(request(i, 10, 3)).unwrap()).collect();
    probe.gate().open();
    for stream in streams {
        assert!(matches!(collect(stream), Err(GenerateError::Stopped)));
    }
    eventually("the engine is dead", || !engine.is_alive());
    assert_eq!(engine.submit(request(9, 10, 10)).unwrap_err(), RequestError::Stopped);
    assert_eq!(engine.load(), Load::default());
}
