//! A real model: whatever else runs, a request's tokens are those it gets alone.
use std::num::NonZeroUsize;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use sparkv::accelerator::Checks;
use sparkv::{Accelerator, Budget, Presets};
use sparkv_engine::{
    EngineConfig, SamplingParams,
    core::{TokenEngine, TokenRequest, TokenStream},
};
use sparkv_models::{DeviceChoice, LoadOptions, ModelSource, Place, WeightFormat, load_to};

use crate::support::{collect, config, ids, ids_of, kv};

fn start(config: EngineConfig) -> TokenEngine {
    start_at(&Place::on(&DeviceChoice::Cpu.open().unwrap()).unwrap(), config)
}

fn start_at(place: &Place, config: EngineConfig) -> TokenEngine {
    // On a device, all of it is taken.
    let kv_memory = Budget::Bytes(config.kv_memory.min(64 << 20));
    let options = LoadOptions { weights: WeightFormat::F32, kv_memory, ..LoadOptions::default() };
    let model = load_to(&ModelSource::Demo, &options, place, &()).unwrap();
    let kv_memory = model.decoder.pool().taken().unwrap_or(config.kv_memory);
    let config = EngineConfig { kv_memory, ..config };
    TokenEngine::start(model.decoder, config, Presets::built_in().unwrap()).unwrap()
}

/// Conversations of all lengths and settings, some of which begin alike.
fn requests(engine: &TokenEngine) -> Vec<TokenRequest> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let vocab = engine.info().vocab_size as u32;
    let opening: Vec<u32> = (0..200).map(|_| rng.random_range(3..vocab)).collect();
    let settings = [
        r#"{"precision": "f32"}"#,
        "{}",
        r#"{"preset": "quality"}"#,
        r#"{"preset": "balanced"}"#,
        r#"{"preset": "aggressive"}"#,
        r#"{"eviction": {"policy": "streaming", "max_tokens": 100}}"#,
    ];
    (0..18)
        .map(|index| {
            let own = rng.random_range(1..120);
            let shared = if index % 3 == 0 { 0 } else { rng.random_range(0..opening.len()) };
            let mut prompt = opening[..shared].to_vec();
            prompt.extend((0..own).map(|_| rng.random_range(3..vocab)));
            TokenRequest {
                max_tokens: Some(rng.random_range(1..60)),
                sampling: SamplingParams {
                    temperature: if index % 2 == 0 { 0.0 } else { 0.7 },
                    top_k: if index % 4 == 1 { 40 } else { 0 },
                    seed: Some(index),
                    ..SamplingParams::default()
                },
                ignore_eos: true,
                kv: kv(settings[index as usize % settings.len()]),
                ..TokenRequest::new(prompt)
            }
        })
        .collect()
}

#[test]
fn any_mix_gives_the_tokens_of_the_request_alone() {
    any_mix_at(&Place::on(&DeviceChoice::Cpu.open().unwrap()).unwrap());
}

#[test]
fn any_mix_gives_the_tokens_of_the_request_alone_on_a_device() {
    let Some(accelerator) = Accelerator::simulated(Checks::Bounds, 3) else { return };
    any_mix_at(&Place::on_accelerator(&accelerator));
}

fn any_mix_at(place: &Place) {
    let alone = start_at(place, config(64));
    let requests = requests(&alone);
    let expected: Vec<Vec<u32>> =
        requests.iter().map(|request| ids(alone.submit(request.clone()).unwrap())).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut found = 0;
    for (max_running, prefix_cache, prompt_balance, kv_memory) in [
        (18, false, 2.5, u64::MAX),
        (5, true, 0.1, u64::MAX),
        (18, true, 4.0, 3 << 20),
        // Not enough for all at once: some wait, some may have to give way.
        (18, false, 1.0, 2 << 20),
    ] {
        let config = EngineConfig {
            max_running: NonZeroUsize::new(max_running).unwrap(),
            prefix_cache,
            prompt_balance,
            kv_memory,
            headroom_tokens: 0,
            ..config(64)
        };
        let engine = start_at(place, config);
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.shuffle(&mut rng);
        let mut streams: Vec<(usize, TokenStream)> = Vec::new();
        for (nth, &index) in order.iter().enumerate() {
            streams.push((index, engine.submit(requests[index].clone()).unwrap()));
            // Some come while others are being answered.
            if nth % 4 == 3 {
                std::thread::sleep(std::time::Duration::from_millis(rng.random_range(0..30)));
            }
        }
        for (index, stream) in streams {
            assert_eq!(ids(stream), expected[index], "{index} of {config:?}: {:?}", requests[index].kv);
        }
        let stats = engine.stats();
        found += stats.prefix_hits;
        assert!(prefix_cache || stats.prefix_hits == 0, "{config:?}");
    }
    assert!(found > 0, "nothing was shared");
}

/// Six answers that are much longer than their prompts, in memory for two and a half of them: however fast the
/// model, the others have come long before the first has ended.
#[test]
fn who_gives_way_goes_on_with_the_same_tokens() {
    let alone = start(config(8));
    let long = |seed: u32| {
        let prompt = (0..20).map(|i| 3 + (seed * 131 + i * 17) % 3000).collect();
        TokenRequest { max_tokens: Some(400), ignore_eos: true, ..TokenRequest::new(prompt) }
    };
    let requests: Vec<TokenRequest> = (0..6).map(long).collect();
    let mut expected = Vec::new();
    let mut bytes = 0;
    for request in &requests {
        let tokens = collect(alone.submit(request.clone()).unwrap()).unwrap();
        bytes = tokens[399].kv.bytes;
        expected.push(ids_of(&tokens));
    }
    let config = EngineConfig {
        max_running: NonZeroUsize::new(6).unwrap(),
        kv_memory: bytes * 5 / 2,
        headroom_tokens: 0,
        ..config(8)
    };
    let engine = start(config);
    let streams: Vec<TokenStream> =
        requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    for (stream, expected) in streams.into_iter().zip(expected) {
        assert_eq!(ids(stream), expected);
    }
    assert!(engine.stats().preemptions > 0, "nobody gave way");
}
