//! Bytes reported are bytes held are bytes computed from the settings; and what must not change anything
//! does not.

use crate::common::{Layer, Tokens, cases, config, is_simulated, pool, settings, test_devices};
use proptest::prelude::*;
use sparkv::settings::{KvOptions, Presets};
use sparkv::{KvShape, LayerSpan, SequenceCache, attend};

fn shape(head_dim: usize) -> KvShape {
    shape_of(1, head_dim)
}

fn shape_of(layers: usize, head_dim: usize) -> KvShape {
    KvShape { layers, attention: config(head_dim) }
}

/// Bytes per packed token of keys and values together, by the arithmetic: a byte for each kept channel, two bits for
/// each of all, and the scale and the magnitude.
fn packed_bytes(head_dim: usize, ratios: (f64, f64)) -> usize {
    let row = |ratio: f64| {
        let pruned = (ratio * head_dim as f64).floor() as usize;
        head_dim - pruned + head_dim / 8 + head_dim / 8 + 3
    };
    row(ratios.0) + row(ratios.1)
}

/// 4 sinks, 32 recent tokens and what is no whole block dense in f16, in groups of 16; the scaling.
fn held_bytes_are_those_of_the_arithmetic() {
    let cases = [
        (r#"{"pruning": {"key_ratio": 0.8, "value_ratio": 0.8}}"#, packed_bytes(128, (0.8, 0.8))),
        (
            r#"{"pruning": {"key_ratio": 0.75, "value_ratio": 0.5}, "precision": "int8"}"#,
            packed_bytes(128, (0.75, 0.5)),
        ),
        (
            r#"{"precision": "int8", "pruning": {"key_ratio": 0.5, "value_ratio": 0.5}}"#,
            packed_bytes(128, (0.5, 0.5)),
        ),
        (r#"{"precision": "int4"}"#, 2 * (64 + 2)),
        (r#"{"precision": {"keys": "int3", "values": "int2"}}"#, 48 + 2 + 32 + 2),
        (r#"{"precision": "int3", "allocation": "uniform"}"#, 2 * (48 + 2)),
    ];
    for (json, packed) in cases {
        let config = config(128);
        let tokens = Tokens::random(&config, 1000);
        let (layer, _) = Layer::run(config, &settings(json), &tokens, 1000);
        let dense_token = 2 * 2 * 128;
        let quantized = (1000 - 36) / 32 * 32;
        // What is known of channels: scalings; the means of keys and values; with bits that are allotted, the mean, the
        // place, the step and the weight of each, and the mean of values.
        let domain = match json {
            json if json.contains("pruning") => 4 * 128,
            json if json.contains("uniform") => 2 * 4 * 128,
            _ => (3 * 4 + 2 + 4) * 128,
        };
        let head_bytes =
            (1000usize - quantized).next_multiple_of(16) * dense_token + quantized * packed + domain;
        assert_eq!(layer.cache.bytes(), 2 * head_bytes as u64, "{json}");
        let usage = layer.cache.usage();
        assert_eq!((usage.kept_tokens, usage.prompt_tokens), (1000, 1000));
        assert_eq!(usage.dense_bytes, 2 * 1008 * dense_token as u64);
        assert_eq!(usage.bytes, layer.cache.bytes());
    }
}

fn the_exact_cache_holds_the_dense_bytes() {
    let config = config(64);
    let tokens = Tokens::random(&config, 333);
    let (layer, _) = Layer::run(config, &settings("{}"), &tokens, 333);
    let usage = layer.cache.usage();
    // Room is made for groups of 16.
    assert_eq!(usage.bytes, shape(64).dense_bytes(333usize.next_multiple_of(16)));
    assert_eq!(usage.dense_bytes, usage.bytes);
    assert_eq!(usage.preset, "exact");
}

/// Ten times the window is generated: the added bytes per added token stay those of packed rows.
fn a_long_generation_keeps_its_bytes_per_token() {
    let config = config(64);
    let tokens = Tokens::random(&config, 200 + 640);
    let settings = settings(r#"{"precision": "int8", "pruning": {"key_ratio": 0.5, "value_ratio": 0.5}}"#);
    let mut layer = Layer::new(config, &settings, 200);
    layer.prompt(&tokens.slice(0, 200));
    // From the same fill of the tail to the same fill of the tail.
    layer.attend(&tokens.slice(200, 320));
    let before = layer.cache.bytes();
    layer.attend(&tokens.slice(520, 320));
    let added = layer.cache.bytes() - before;
    // 10 blocks of keys and of values for each of 2 heads, in whole lines of 64 bytes.
    let block = 32 * packed_bytes(64, (0.5, 0.5)) / 2;
    assert_eq!(added as usize, 2 * 10 * 2 * block.next_multiple_of(64));
}

fn a_streaming_budget_holds_while_generating() {
    let config = config(64);
    let tokens = Tokens::random(&config, 800);
    let json = r#"{"eviction": {"policy": "streaming", "max_tokens": 128}, "preset": "balanced"}"#;
    let mut layer = Layer::new(config, &settings(json), 300);
    layer.prompt(&tokens.slice(0, 300));
    for position in 300..800 {
        layer.attend(&tokens.slice(position, 1));
        assert!(layer.cache.usage().kept_tokens <= 128);
        assert!(layer.cache.bytes() < 2 * 128 * 4 * 64);
    }
}

/// Bit for bit.
fn ratio_0_and_a_budget_of_everything_equal_no_settings() {
    let config = config(64);
    let tokens = Tokens::random(&config, 260);
    let (_, exact) = Layer::run(config, &settings("{}"), &tokens, 200);
    for json in [
        r#"{"preset": "exact"}"#,
        r#"{"pruning": {"key_ratio": 0.0, "value_ratio": 0.0}}"#,
        r#"{"eviction": {"policy": "snapkv", "max_tokens": 200}}"#,
        r#"{"eviction": {"policy": "snapkv", "keep_ratio": 1.0}}"#,
        r#"{"eviction": {"policy": "pyramidkv", "max_tokens": 200}}"#,
        r#"{"eviction": {"policy": "expected_attention", "max_tokens": 200}}"#,
        r#"{"eviction": {"policy": "streaming", "max_tokens": 291}}"#,
        r#"{"eviction": {"policy": "streaming", "keep_ratio": 1.0}}"#,
    ] {
        assert_eq!(Layer::run(config, &settings(json), &tokens, 200).1, exact, "{json}");
    }
    let everything: KvOptions = serde_json::from_str(r#"{"budget": "100%"}"#).unwrap();
    let choice = Presets::built_in().unwrap().resolve(&everything).unwrap();
    let settings = choice.settings(&shape(64), 200, 60).unwrap();
    assert_eq!(Layer::run(config, &settings, &tokens, 200).1, exact);
}

/// Bit for bit, however the sequence is cut: prompt in chunks, completion in spans.
fn chunks_do_not_matter() {
    let config = config(64);
    let tokens = Tokens::random(&config, 400);
    let expected_attention =
        r#"{"preset": "balanced", "eviction": {"policy": "expected_attention", "keep_ratio": 0.5}}"#;
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#, expected_attention] {
        let settings = settings(json);
        let (whole, expected) = Layer::run(config, &settings, &tokens, 250);
        let mut layer = Layer::new(config, &settings, 250);
        let mut out = Vec::new();
        for (start, len) in [(0, 1), (1, 99), (100, 150)] {
            out.extend(layer.attend(&tokens.slice(start, len)));
        }
        layer.cache.layers_mut()[0].finish_prompt().unwrap();
        for (start, len) in [(250, 3), (253, 120), (373, 27)] {
            out.extend(layer.attend(&tokens.slice(start, len)));
        }
        assert_eq!(out, expected, "{json}");
        assert_eq!(layer.cache.usage(), whole.cache.usage(), "{json}");
    }
}

/// Lower layers keep more, upper ones fewer, all together as many as the same bound under SnapKV.
fn pyramidkv_keeps_its_bound_on_average() {
    let config = config(64);
    let tokens = Tokens::random(&config, 700);
    let kept = |policy: &str| {
        let json = format!(r#"{{"eviction": {{"policy": "{policy}", "max_tokens": 150}}}}"#);
        let mut layers = Layer::of_many(4, config, &settings(&json), 600);
        layers.prompt(&tokens.slice(0, 600));
        layers.attend(&tokens.slice(600, 100));
        (layers.cache.usage().kept_tokens, layers.cache.layers_mut().iter().map(|l| l.bytes()).collect())
    };
    let (snapkv, alike): (usize, Vec<usize>) = kept("snapkv");
    let (pyramidkv, falling): (usize, Vec<usize>) = kept("pyramidkv");
    assert_eq!((snapkv, pyramidkv), (250, 250));
    assert!(alike.windows(2).all(|layers| layers[0] == layers[1]), "{alike:?}");
    assert!(falling.windows(2).all(|layers| layers[0] > layers[1]), "{falling:?}");
}

/// While the prompt is computed, the sample of its queries is counted, too; afterwards it is gone.
fn a_sample_of_queries_is_counted_where_it_is_held() {
    let config = config(64);
    let tokens = Tokens::random(&config, 300);
    let bytes = |policy: &str| {
        let json = format!(r#"{{"eviction": {{"policy": "{policy}", "keep_ratio": 0.5}}}}"#);
        let mut layer = Layer::new(config, &settings(&json), 300);
        layer.attend(&tokens.slice(0, 300));
        let during = layer.cache.bytes();
        layer.cache.layers_mut()[0].finish_prompt().unwrap();
        (during, layer.cache.bytes())
    };
    let (streaming, expected_attention) = (bytes("streaming"), bytes("expected_attention"));
    assert_eq!(expected_attention.0 - streaming.0, 300 * 4 * 64 * 4);
    assert!(expected_attention.1 < streaming.0);
}

/// Bit for bit; and what is only stored is stored all the same.
fn rows_that_are_not_wanted_change_nothing_for_those_that_are() {
    let config = config(64);
    let tokens = Tokens::random(&config, 300);
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#] {
        let settings = settings(json);
        let (whole, expected) = Layer::run(config, &settings, &tokens, 200);
        let mut layer = Layer::new(config, &settings, 200);
        let mut start = 0;
        for (tokens_of, wanted) in [(150, 0), (50, 1), (3, 2), (97, 60)] {
            let Tokens { q, k, v } = tokens.slice(start, tokens_of);
            let span = LayerSpan { tokens: tokens_of, wanted, cache: &mut layer.cache.layers_mut()[0] };
            let out: Vec<Vec<f32>> = attend(&config, &q, &k, &v, &mut [span]).unwrap().to_vec2().unwrap();
            start += tokens_of;
            assert_eq!(out, expected[start - wanted..start], "{json} at {start}");
            if start == 200 {
                layer.cache.layers_mut()[0].finish_prompt().unwrap();
            }
        }
        assert_eq!(layer.cache.usage(), whole.cache.usage());
    }
    let mut layer = Layer::new(config, &settings("{}"), 200);
    let Tokens { q, k, v } = tokens.slice(0, 2);
    let span = LayerSpan { tokens: 2, wanted: 3, cache: &mut layer.cache.layers_mut()[0] };
    assert!(attend(&config, &q, &k, &v, &mut [span]).is_err());
}

fn any_settings() -> impl Strategy<Value = String> {
    let ratio = || prop::sample::select(vec![0.0, 0.01, 0.5, 0.8, 0.9]);
    let side = || prop::sample::select(vec!["f16", "int8", "int6", "int5", "int4", "int3", "int2"]);
    let each =
        (side(), side()).prop_map(|(keys, values)| format!(r#"{{"keys": "{keys}", "values": "{values}"}}"#));
    let precision = prop_oneof![
        1 => Just(String::new()),
        1 => Just(r#""f32""#.to_owned()),
        1 => Just(r#""int8""#.to_owned()),
        3 => (each, prop::sample::select(vec!["", r#", "allocation": "uniform""#])).prop_map(|(each, share)| each + share),
    ];
    let policy = prop::sample::select(vec!["none", "streaming", "snapkv", "pyramidkv", "expected_attention"]);
    (ratio(), ratio(), precision, policy, 1usize..50, 0usize..40, 0usize..300).prop_map(
        |(keys, values, precision, policy, window, sinks, extra)| {
            let bound = window + sinks + 32 + extra;
            let (keys, values) = if precision.contains("keys") { (0.0, 0.0) } else { (keys, values) };
            let precision =
                if precision.is_empty() { String::new() } else { format!(r#""precision": {precision},"#) };
            let bound = if policy == "none" { String::new() } else { format!(r#", "max_tokens": {bound}"#) };
            format!(
                r#"{{"pruning": {{"key_ratio": {keys}, "value_ratio": {values}}}, {precision}
                    "window": {window}, "sinks": {sinks}, "eviction": {{"policy": "{policy}"{bound}}}}}"#
            )
        },
    )
}

/// Whether devices refuse the settings.
fn is_refused(json: &str) -> bool {
    is_simulated() && SequenceCache::counted(shape(8), &settings(json), 100, &pool()).is_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100)))]

    /// What admission computes is what the caches hold, for any settings, layers, prompt and completion.
    fn computed_bytes_are_held_bytes(
        json in any_settings(), layers in 1usize..6, prompt in 1usize..300, new in 0usize..200,
    ) {
        prop_assume!(!is_refused(&json));
        let config = config(8);
        let settings = settings(&json);
        let tokens = Tokens::random(&config, prompt + new);
        let mut layer = Layer::of_many(layers, config, &settings, prompt);
        layer.prompt(&tokens.slice(0, prompt));
        if new > 0 {
            layer.attend(&tokens.slice(prompt, new));
        }
        let computed = settings.cache_bytes(&shape_of(layers, 8), prompt, new).unwrap();
        prop_assert_eq!(layer.cache.bytes(), computed, "{}", json);
    }

    /// What admission promises is not exceeded: while a prompt is computed layer by layer, and with any token.
    fn promised_bytes_are_enough(
        json in any_settings(), layers in 1usize..4, prompt in 1usize..300, new in 0usize..150,
    ) {
        prop_assume!(!is_refused(&json));
        let (config, shape) = (config(8), shape_of(layers, 8));
        let settings = settings(&json);
        let tokens = Tokens::random(&config, prompt + new);
        let pool = pool();
        let mut cache = SequenceCache::counted(shape, &settings, prompt, &pool).unwrap();
        let promised = settings.prompt_bytes(&shape, prompt).unwrap();
        let Tokens { q, k, v } = tokens.slice(0, prompt);
        for layer in 0..layers {
            let cache = &mut cache.layers_mut()[layer];
            attend(&config, &q, &k, &v, &mut [LayerSpan { tokens: prompt, wanted: 0, cache }]).unwrap();
            prop_assert!(pool.held() <= promised, "{} of {promised}: {json}", pool.held());
            cache.finish_prompt().unwrap();
            prop_assert!(pool.held() <= promised, "{} of {promised}: {json}", pool.held());
        }
        prop_assert_eq!(pool.held(), cache.bytes());
        let most = settings.most_bytes(&shape, prompt, new).unwrap();
        for position in prompt..prompt + new {
            let promised = pool.held() + cache.next_bytes();
            let Tokens { q, k, v } = tokens.slice(position, 1);
            for cache in cache.layers_mut() {
                attend(&config, &q, &k, &v, &mut [LayerSpan { tokens: 1, wanted: 1, cache }]).unwrap();
            }
            prop_assert!(pool.held() <= promised.min(most), "{} of {promised}, {most}: {json}", pool.held());
        }
        drop(cache);
        prop_assert_eq!(pool.held(), 0);
    }
}

/// A prompt that is bounded from the start is copied into its bounded store, though nothing is dropped yet.
fn what_a_prompt_is_copied_to_is_promised_beside_it() {
    let config = config(64);
    let shape = KvShape { layers: 1, attention: config };
    let tokens = Tokens::random(&config, 100);
    for json in [
        "{}",
        r#"{"precision": "int4"}"#,
        r#"{"precision": "int3", "allocation": "uniform"}"#,
        r#"{"preset": "aggressive"}"#,
        r#"{"eviction": {"policy": "streaming", "max_tokens": 500}}"#,
        r#"{"eviction": {"policy": "streaming", "max_tokens": 80}}"#,
        r#"{"eviction": {"policy": "snapkv", "keep_ratio": 1.0}}"#,
    ] {
        let settings = settings(json);
        let mut layer = Layer::new(config, &settings, 100);
        layer.attend(&tokens);
        let before = layer.cache.bytes();
        layer.cache.layers_mut()[0].finish_prompt().unwrap();
        let after = layer.cache.bytes();
        // What stays as it is is not copied.
        let peak = if json == "{}" || json.contains("1.0") { before } else { before + after };
        let promised = settings.prompt_bytes(&shape, 100).unwrap();
        assert!(peak <= promised, "{json}: {before} and {after}, promised {promised}");
    }
}

test_devices!(
    held_bytes_are_those_of_the_arithmetic,
    the_exact_cache_holds_the_dense_bytes,
    a_long_generation_keeps_its_bytes_per_token,
    a_streaming_budget_holds_while_generating,
    ratio_0_and_a_budget_of_everything_equal_no_settings,
    chunks_do_not_matter,
    pyramidkv_keeps_its_bound_on_average,
    a_sample_of_queries_is_counted_where_it_is_held,
    rows_that_are_not_wanted_change_nothing_for_those_that_are,
    computed_bytes_are_held_bytes,
    promised_bytes_are_enough,
    what_a_prompt_is_copied_to_is_promised_beside_it,
);
