//! Rows of few bits are stored without their mean and rotated: what breaks them otherwise does not show.

use candle_core::{Device, Tensor};

use crate::common::{Layer, Tokens, config, distance, settings};

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

/// How far int4 is from the exact cache, over all tokens after the prompt.
fn error(tokens: &Tokens, head_dim: usize) -> f32 {
    let [exact, int4] = ["{}", r#"{"precision": "int4"}"#]
        .map(|json| Layer::run(config(head_dim), &settings(json), tokens, PROMPT).1);
    distance(&exact[PROMPT..], &int4[PROMPT..])
}

#[test]
fn constant_offsets_and_outlier_channels_do_no_harm() {
    for head_dim in [64, 80, 96, 128] {
        let tokens = Tokens::random(&config(head_dim), PROMPT + 90);
        let plain = error(&tokens, head_dim);
        assert!(plain > 1e-3 && plain < 0.4, "D {head_dim}: {plain}");
        let offset = error(&with_offsets(&tokens, head_dim, 50.0, 1.0), head_dim);
        // (Dense rows are f16, which large values round more coarsely.)
        assert!(offset < 1.5 * plain + 0.02, "D {head_dim}: {offset}, {plain} without the offset");
        let outlier = error(&with_offsets(&tokens, head_dim, 0.0, 6.0), head_dim);
        assert!(outlier < 4.0 * plain, "D {head_dim}: {outlier}, {plain} without the outlier");
    }
}

#[test]
fn tokens_at_once_and_one_by_one_are_the_same() {
    let tokens = Tokens::random(&config(64), PROMPT + 150);
    let settings = settings(r#"{"precision": "int4"}"#);
    let (one_by_one, out) = Layer::run(config(64), &settings, &tokens, PROMPT);
    let mut at_once = Layer::new(config(64), &settings, PROMPT);
    let mut all = at_once.prompt(&tokens.slice(0, PROMPT));
    all.extend(at_once.attend(&tokens.slice(PROMPT, 150)));
    assert_eq!(all, out);
    assert_eq!(at_once.cache.bytes(), one_by_one.cache.bytes());
}

#[test]
fn a_sliding_window_sees_quantized_and_dense_rows() {
    let mut config = config(64);
    let tokens = Tokens::random(&config, PROMPT + 60);
    // Wider and narrower than the dense tail.
    for window in [20, 100] {
        config.sliding_window = Some(window);
        let [exact, int4] = ["{}", r#"{"precision": "int4"}"#]
            .map(|json| Layer::run(config, &settings(json), &tokens, PROMPT).1);
        let off = distance(&exact, &int4);
        assert!(off < 0.4, "{window}: {off}");
        assert!(window < 32 || off > 0.0);
    }
}
