//! The attention seam: what the decoder hands over, and the one place that knows the device.

use candle_core::{DType, Result, Tensor};

use crate::cache::LayerSpan;
use crate::shape::AttentionConfig;
use crate::storage::{cpu, device};

/// Appends k and v to the spans' caches and attends with q over them, causally, each token over the stored
/// tokens up to itself. Tokens that have left the window are packed when room is needed.
///
/// `q`: (rows, query_heads * head_dim), `k`, `v`: (rows, kv_heads * head_dim), f32, after RoPE; rows of all
/// spans one after the other. Returns (wanted rows, query_heads * head_dim), f32.
///
/// # Errors
/// If shapes, types or the spans do not fit one another, more rows are wanted than a span has, the tensors are not where the
/// caches are, or the device fails.
pub fn attend(
    config: &AttentionConfig,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &mut [LayerSpan<'_>],
) -> Result<Tensor> {
    check(config, [q, k, v], spans)?;
    match spans.first().and_then(|span| span.cache.memory()) {
        Some(memory) => device::attend::attend_spans(&memory, config, [q, k, v], spans),
        None => cpu::attend::attend_spans(config, [q, k, v], spans),
    }
}

/// Whether everything fits.
fn check(config: &AttentionConfig, qkv: [&Tensor; 3], spans: &[LayerSpan<'_>]) -> Result<()> {
    if config.kv_heads == 0 || !config.query_heads.is_multiple_of(config.kv_heads) {
        candle_core::bail!("{} query heads do not share {} KV heads", config.query_heads, config.kv_heads);
    }
    let rows = spans.iter().map(|span| span.tokens).sum::<usize>();
    for (tensor, row) in qkv.into_iter().zip([config.query_row(), config.kv_row(), config.kv_row()]) {
        if tensor.dims2()? != (rows, row) || tensor.dtype() != DType::F32 {
            candle_core::bail!(
                "attention wants f32 ({rows}, {row}), got {:?} {:?}",
                tensor.dtype(),
                tensor.shape()
            );
        }
    }
    for span in spans {
        let made_for = span.cache.plan.shape.attention;
        if made_for != *config {
            candle_core::bail!("a cache for {made_for:?} does not fit attention {config:?}");
        }
        if span.wanted > span.tokens {
            candle_core::bail!("{} rows of {} are wanted", span.wanted, span.tokens);
        }
    }
    Ok(())
}
