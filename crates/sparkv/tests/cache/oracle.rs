//! Attention over the packed cache against attention over recovered dense keys and values, both made by
//! plain Candle operations from the definition of the method.

use crate::common::{Layer, Tokens, config, distance, is_simulated, pool, settings, test_devices};
use candle_core::{D, Device, Result, Tensor};
use sparkv::{AttentionConfig, KvShape, SequenceCache};

const WINDOW: usize = 32;
const SINKS: usize = 4;

/// (tokens, D) with all but the `keep` largest of `saliency` per row replaced by `fill`.
fn replace_pruned(rows: &Tensor, saliency: &Tensor, keep: usize, fill: &Tensor) -> Result<Tensor> {
    let threshold = saliency.sort_last_dim(false)?.0.narrow(D::Minus1, keep - 1, 1)?;
    let kept = saliency.broadcast_ge(&threshold)?;
    kept.where_cond(rows, &fill.broadcast_as(rows.shape())?)
}

/// Mean over the pruned channels of each row: (tokens, 1).
fn pruned_mean(values: &Tensor, saliency: &Tensor, keep: usize) -> Result<Tensor> {
    let threshold = saliency.sort_last_dim(false)?.0.narrow(D::Minus1, keep - 1, 1)?;
    let pruned = saliency.broadcast_lt(&threshold)?.to_dtype(values.dtype())?;
    (values * pruned)?.sum_keepdim(D::Minus1)? / (values.dim(D::Minus1)? - keep) as f64
}

/// SparK: saliency n k^2, fill sign(k) sqrt(mean pruned saliency / n).
fn recover_keys(keys: &Tensor, window: &Tensor, ratio: f64) -> Result<Tensor> {
    let head_dim = keys.dim(1)?;
    let keep = head_dim - (ratio * head_dim as f64).floor() as usize;
    if keep == head_dim {
        return Ok(keys.clone());
    }
    // (group * window, D) -> (1, D)
    let n = window.sqr()?.sum_keepdim(0)?.sqrt()?;
    let saliency = keys.sqr()?.broadcast_mul(&n)?;
    let mean = pruned_mean(&saliency, &saliency, keep)?;
    let fill = (keys.sign()? * mean.broadcast_div(&n)?.sqrt()?)?;
    replace_pruned(keys, &saliency, keep, &fill)
}

/// Values: saliency |v|, fill sign(v) mean pruned |v|.
fn recover_values(values: &Tensor, ratio: f64) -> Result<Tensor> {
    let head_dim = values.dim(1)?;
    let keep = head_dim - (ratio * head_dim as f64).floor() as usize;
    if keep == head_dim {
        return Ok(values.clone());
    }
    let saliency = values.abs()?;
    let mean = pruned_mean(&saliency, &saliency, keep)?;
    replace_pruned(values, &saliency, keep, &values.sign()?.broadcast_mul(&mean)?)
}

/// Columns of `head` in (tokens, heads * D).
fn head(rows: &Tensor, head: usize, config: &AttentionConfig) -> Result<Tensor> {
    rows.narrow(1, head * config.head_dim, config.head_dim)
}

/// Replaces rows `from..to` of `dense` by those of `recovered`.
fn splice(dense: &Tensor, recovered: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    let after = dense.dim(0)? - to;
    Tensor::cat(
        &[&dense.narrow(0, 0, from)?, &recovered.narrow(0, from, to - from)?, &dense.narrow(0, to, after)?],
        0,
    )
}

/// Attention of the last token: (query_heads * D). Where keys are centred, they are pruned without the mean key of the
/// prompt behind the sinks.
fn expected(
    config: &AttentionConfig,
    tokens: &Tokens,
    prompt: usize,
    ratios: (f64, f64),
    centred: bool,
) -> Result<Vec<f32>> {
    let last = tokens.len() - 1;
    // Whole blocks of 32 before the window; then another one whenever the tail holds window + block.
    let of_prompt = (prompt - SINKS - WINDOW) / 32 * 32;
    let packed_end = SINKS + of_prompt + (tokens.len() - SINKS - of_prompt - WINDOW - 32).div_ceil(32) * 32;
    let group = config.query_heads / config.kv_heads;
    let mut out = Vec::new();
    for query_head in 0..config.query_heads {
        let kv_head = query_head / group;
        let (k, v) = (head(&tokens.k, kv_head, config)?, head(&tokens.v, kv_head, config)?);
        let window: Vec<Tensor> = (kv_head * group..(kv_head + 1) * group)
            .map(|h| head(&tokens.q, h, config)?.narrow(0, prompt - WINDOW, WINDOW))
            .collect::<Result<_>>()?;
        let mean = (k.narrow(0, SINKS, prompt - SINKS)?.mean_keepdim(0)? * f64::from(u8::from(centred)))?;
        let keys = recover_keys(&k.broadcast_sub(&mean)?, &Tensor::cat(&window, 0)?, ratios.0)?;
        let keys = keys.broadcast_add(&mean)?;
        let k = splice(&k, &keys, SINKS, packed_end)?;
        let v = splice(&v, &recover_values(&v, ratios.1)?, SINKS, packed_end)?;
        let q = head(&tokens.q, query_head, config)?.narrow(0, last, 1)?;
        let scores = (q.matmul(&k.t()?)? * f64::from(config.scale))?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        out.extend(weights.matmul(&v)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(out)
}

fn packed_attention_equals_attention_over_recovered_rows() {
    for head_dim in [64, 80, 96, 128, 256] {
        for (ratios, centred) in [
            ((0.5, 0.5), false),
            ((0.75, 0.0), false),
            ((0.8, 0.8), false),
            ((0.0, 0.75), false),
            ((0.75, 0.75), true),
            ((0.8, 0.0), true),
        ] {
            let config = config(head_dim);
            let tokens = Tokens::random(&config, 150 + 70);
            let settings = settings(&format!(
                r#"{{"pruning": {{"key_ratio": {}, "value_ratio": {}, "center_keys": {centred}}},
                    "precision": "f32"}}"#,
                ratios.0, ratios.1
            ));
            if is_simulated() {
                // Kept values of f32 are there for this test, on the CPU.
                let shape = KvShape { layers: 1, attention: config };
                let refused = SequenceCache::counted(shape, &settings, 150, &pool()).unwrap_err();
                assert_eq!(refused.param, "precision");
                continue;
            }
            let (_, out) = Layer::run(config, &settings, &tokens, 150);
            let expected = expected(&config, &tokens, 150, ratios, centred).unwrap();
            let worst = distance(&out[tokens.len() - 1..], &[expected]);
            assert!(worst < 3e-6, "D {head_dim}, ratios {ratios:?}, centred {centred}: off by {worst}");
        }
    }
}

/// The prompt's own attention is not touched by what happens afterwards.
fn prompt_outputs_are_computed_with_unpruned_rows() {
    let config = config(64);
    let tokens = Tokens::random(&config, 100);
    let exact = Layer::new(config, &settings("{}"), 100).prompt(&tokens);
    let json = r#"{"preset": "aggressive"}"#;
    assert_eq!(Layer::new(config, &settings(json), 100).prompt(&tokens), exact);
}

fn a_sliding_window_hides_older_positions() {
    let mut config = config(64);
    config.sliding_window = Some(20);
    let tokens = Tokens::random(&config, 90);
    let (_, out) = Layer::run(config, &settings(r#"{"precision": "f32"}"#), &tokens, 50);
    for position in [0, 19, 20, 49, 50, 89] {
        let first = (position + 1usize).saturating_sub(20);
        let seen = tokens.slice(first, position + 1 - first);
        let mut q = head(&seen.q, 3, &config).unwrap();
        q = q.narrow(0, seen.len() - 1, 1).unwrap();
        let (k, v) = (head(&seen.k, 1, &config).unwrap(), head(&seen.v, 1, &config).unwrap());
        let scores = (q.matmul(&k.t().unwrap()).unwrap() * f64::from(config.scale)).unwrap();
        let expected = candle_nn::ops::softmax_last_dim(&scores).unwrap().matmul(&v).unwrap();
        let expected = expected.to_vec2().unwrap();
        assert!(distance(&[out[position][3 * 64..].to_vec()], &expected) < 3e-6, "position {position}");
    }
}

fn tensors_that_do_not_fit_are_errors() {
    let config = config(64);
    let tokens = Tokens::random(&config, 5);
    let settings = settings("{}");
    let attend = |q: &Tensor, spans: usize| {
        let mut layer = Layer::new(config, &settings, 5);
        let span =
            sparkv::LayerSpan { tokens: spans, wanted: spans, cache: &mut layer.cache.layers_mut()[0] };
        sparkv::attend(&config, q, &tokens.k, &tokens.v, &mut [span])
    };
    assert!(attend(&tokens.q, 5).is_ok());
    assert!(attend(&tokens.q, 4).is_err());
    assert!(attend(&tokens.k, 5).is_err());
    assert!(attend(&tokens.q.to_dtype(candle_core::DType::F16).unwrap(), 5).is_err());
    assert!(attend(&Tensor::zeros((5, 256), candle_core::DType::F32, &Device::Cpu).unwrap(), 5).is_ok());
}

test_devices!(
    packed_attention_equals_attention_over_recovered_rows,
    prompt_outputs_are_computed_with_unpruned_rows,
    a_sliding_window_hides_older_positions,
    tensors_that_do_not_fit_are_errors,
);
