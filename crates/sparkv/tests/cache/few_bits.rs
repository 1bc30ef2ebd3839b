//! Rows of fewer than 8 bits are stored without their mean, rotated or with bits for each channel by what it costs: what
//! breaks them otherwise does not show.

use candle_core::{Device, Tensor};

use sparkv::settings::Presets;

use crate::common::{Layer, Tokens, config, distance, settings, test_devices};

const PROMPT: usize = 160;

/// Keys with a large constant in some channels, as biases make it, and a channel that is much larger than the others.
fn with_offsets(tokens: &Tokens, head_dim: usize, offset: f32, outlier: f32) -> Tokens {
    let change = |tensor: &Tensor, offset: f32| {
        let mut rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
        for head in rows.iter_mut().flat_map(|row| row.chunks_exact_mut(head_dim)) {
            head.iter_mut().step_by(7).for_each(|value| *value += offset);
            head[5] *= outlier;
        }
        let count = rows.len();
        let width = rows[0].len();
        Tensor::from_vec(rows.concat(), (count, width), &Device::Cpu).unwrap()
    };
    Tokens { q: tokens.q.clone(), k: change(&tokens.k, offset), v: change(&tokens.v, offset / 4.0) }
}

/// Settings of few bits, and how far they may be from the exact cache over random tokens.
const SETTINGS: [(&str, f32); 8] = [
    (r#"{"precision": "int6"}"#, 0.15),
    (r#"{"precision": "int5"}"#, 0.2),
    (r#"{"precision": "int4"}"#, 0.4),
    (r#"{"precision": "int4", "allocation": "uniform"}"#, 0.4),
    (r#"{"precision": "int3"}"#, 0.8),
    (r#"{"precision": "int3", "allocation": "uniform"}"#, 0.8),
    (r#"{"precision": {"keys": "int2", "values": "int3"}}"#, 1.2),
    (r#"{"precision": {"keys": "int8", "values": "int4"}}"#, 0.4),
];

/// How far `json` is from the exact cache, over all tokens after the prompt.
fn error(json: &str, tokens: &Tokens, head_dim: usize) -> f32 {
    let [exact, few] =
        ["{}", json].map(|json| Layer::run(config(head_dim), &settings(json), tokens, PROMPT).1);
    distance(&exact[PROMPT..], &few[PROMPT..])
}

fn constant_offsets_and_outlier_channels_do_no_harm() {
    for head_dim in [64, 80, 96, 128] {
        let tokens = Tokens::random(&config(head_dim), PROMPT + 90);
        for (json, limit) in SETTINGS {
            let plain = error(json, &tokens, head_dim);
            assert!(plain > 1e-3 && plain < limit, "D {head_dim}, {json}: {plain}");
            let offset = error(json, &with_offsets(&tokens, head_dim, 50.0, 1.0), head_dim);
            // (Dense rows are f16, which large values round more coarsely.)
            assert!(
                json.contains("int8") || offset < 1.5 * plain + 0.02,
                "D {head_dim}, {json}: {offset}, {plain} without the offset"
            );
            let outlier = error(json, &with_offsets(&tokens, head_dim, 0.0, 6.0), head_dim);
            eprintln!(
                "OUT {head_dim} {json} {} plain {plain} offset {offset} outlier {outlier}",
                crate::common::is_simulated()
            );
            assert!(outlier < 7.0 * plain, "D {head_dim}, {json}: {outlier}, {plain} without the outlier");
        }
    }
}

fn errors_fall_with_bits() {
    let tokens = Tokens::random(&config(64), PROMPT + 90);
    for allocation in ["query", "uniform"] {
        let errors = [2, 3, 4, 5, 6].map(|bits| {
            let json = format!(r#"{{"precision": "int{bits}", "allocation": "{allocation}"}}"#);
            let [exact, few] =
                ["{}", &json].map(|json| Layer::run(config(64), &settings(json), &tokens, PROMPT).1.concat());
            exact.iter().zip(&few).map(|(a, b)| (a - b).abs()).sum::<f32>() / few.len() as f32
        });
        assert!(errors.is_sorted_by(|a, b| *a > 1.4 * b), "{allocation}: {errors:?}");
    }
}

fn tokens_at_once_and_one_by_one_are_the_same() {
    let tokens = Tokens::random(&config(64), PROMPT + 150);
    for (json, _) in SETTINGS {
        // With nothing quantized yet after a short prompt, and with some.
        for prompt in [40, PROMPT] {
            let settings = settings(json);
            let (one_by_one, out) = Layer::run(config(64), &settings, &tokens, prompt);
            let mut at_once = Layer::new(config(64), &settings, prompt);
            let mut all = at_once.prompt(&tokens.slice(0, prompt));
            all.extend(at_once.attend(&tokens.slice(prompt, tokens.len() - prompt)));
            assert_eq!(all, out, "{json}");
            assert_eq!(at_once.cache.bytes(), one_by_one.cache.bytes());
        }
    }
}

fn a_sliding_window_sees_quantized_and_dense_rows() {
    let mut config = config(64);
    let tokens = Tokens::random(&config, PROMPT + 60);
    for (json, limit) in SETTINGS {
        // Wider and narrower than the dense tail.
        for window in [20, 100] {
            config.sliding_window = Some(window);
            let [exact, few] =
                ["{}", json].map(|json| Layer::run(config, &settings(json), &tokens, PROMPT).1);
            let off = distance(&exact, &few);
            assert!(off < limit, "{json}, {window}: {off}");
            assert!(window < 32 || off > 0.0);
        }
    }
}

#[test]
fn what_would_not_be_done_is_refused() {
    for (json, param, reason) in [
        (r#"{"precision": "int8", "allocation": "query"}"#, "allocation", "int6 to int2"),
        (r#"{"precision": {"values": "int4"}, "allocation": "query"}"#, "allocation", "int6 to int2"),
        (r#"{"precision": {"keys": "f32", "values": "int4"}}"#, "precision", "alike"),
        (
            r#"{"precision": "int3", "pruning": {"key_ratio": 0.5}}"#,
            "precision",
            "int3 holds rows that are not pruned",
        ),
    ] {
        let error = Presets::built_in().unwrap().resolve(&serde_json::from_str(json).unwrap()).unwrap_err();
        assert_eq!(error.param, param, "{json}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    // What changes nothing, and what each side is for.
    settings(r#"{"precision": "int8", "allocation": "uniform"}"#);
    settings(r#"{"precision": {"values": "int4"}, "pruning": {"key_ratio": 0.5}}"#);
}

test_devices!(
    constant_offsets_and_outlier_channels_do_no_harm,
    errors_fall_with_bits,
    tokens_at_once_and_one_by_one_are_the_same,
    a_sliding_window_sees_quantized_and_dense_rows,
);
