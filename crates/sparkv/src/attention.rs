//! The attention seam: what the decoder hands over, and the one place that knows the device.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use rayon::prelude::*;
use sparkv_kernels::{KEY_BLOCK, Partial, QueryTile, TileScratch, attend_tile};

use crate::cache::LayerCache;

/// Queries that are computed together, of the heads of a group and of as many positions as that makes: each stored
/// row is read once for all of them.
const TILE_QUERIES: usize = 64;

/// Stored rows that are attended to at a time, so that few tiles over many rows keep all threads busy.
const SPLIT: usize = 16 * KEY_BLOCK;

/// Multiplications below which a second thread costs more than it brings: some ten microseconds of work.
const SERIAL_WORK: usize = 1 << 17;

/// What attention needs to know of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head; a multiple of 8.
    pub head_dim: usize,
    /// Factor on the scores, usually 1/sqrt(head_dim).
    pub scale: f32,
    /// A query sees this many positions, itself included (Mistral); all of them if `None`.
    pub sliding_window: Option<usize>,
}

impl AttentionConfig {
    /// Length of a row of queries, and of attention's output.
    fn query_row(&self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Length of a row of keys or values.
    pub(crate) fn kv_row(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a KV head.
    pub(crate) fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

/// One sequence's part of a ragged batch: `tokens` rows of q, k and v, in order, and the cache they extend.
#[derive(Debug)]
pub struct Span<'a> {
    /// Rows of the batch that belong to this sequence.
    pub tokens: usize,
    /// This layer's cache of the sequence.
    pub cache: &'a mut LayerCache,
}

/// Appends k and v to the spans' caches and attends with q over them, causally, each token over the stored
/// tokens up to itself. Tokens that have left the window are packed when room is needed.
///
/// `q`: (rows, query_heads * head_dim), `k`, `v`: (rows, kv_heads * head_dim), f32, after RoPE; rows of all
/// spans one after the other. Returns (rows, query_heads * head_dim), f32.
///
/// # Errors
/// If shapes, types or the spans do not fit one another, or the tensors are not on the CPU.
pub fn attend(
    config: &AttentionConfig,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &mut [Span<'_>],
) -> Result<Tensor> {
    let rows = check(config, [q, k, v], spans)?;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let mut out = vec![0f32; rows * config.query_row()];
    with_rows(&q, |q| {
        with_rows(&k, |k| {
            with_rows(&v, |v| {
                attend_spans(config, Qkv { q, k, v }, spans, &mut out);
                Ok(())
            })
        })
    })?;
    Tensor::from_vec(out, (rows, config.query_row()), &Device::Cpu)
}

/// The number of rows, if everything fits.
fn check(config: &AttentionConfig, qkv: [&Tensor; 3], spans: &[Span<'_>]) -> Result<usize> {
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
    }
    Ok(rows)
}

/// Calls `compute` with the values of a contiguous f32 tensor on the CPU.
fn with_rows<R>(tensor: &Tensor, compute: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => compute(&values[start..end]),
        _ => candle_core::bail!("attention has no kernel for {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

/// Rows of queries, keys and values of the same tokens.
#[derive(Clone, Copy)]
struct Qkv<'a> {
    /// (tokens, query_heads * head_dim)
    q: &'a [f32],
    /// (tokens, kv_heads * head_dim)
    k: &'a [f32],
    /// (tokens, kv_heads * head_dim)
    v: &'a [f32],
}

impl<'a> Qkv<'a> {
    fn slice(&self, config: &AttentionConfig, tokens: Range<usize>) -> Qkv<'a> {
        let rows = |values: &'a [f32], row: usize| &values[tokens.start * row..tokens.end * row];
        Qkv {
            q: rows(self.q, config.query_row()),
            k: rows(self.k, config.kv_row()),
            v: rows(self.v, config.kv_row()),
        }
    }
}

/// All spans in parallel; `out`: (rows, query_heads * head_dim).
fn attend_spans(config: &AttentionConfig, qkv: Qkv<'_>, spans: &mut [Span<'_>], mut out: &mut [f32]) {
    let mut start = 0;
    let mut work = Vec::with_capacity(spans.len());
    for span in spans {
        let (rows, rest) = std::mem::take(&mut out).split_at_mut(span.tokens * config.query_row());
        out = rest;
        work.push((&mut *span.cache, qkv.slice(config, start..start + span.tokens), rows));
        start += span.tokens;
    }
    match work.as_mut_slice() {
        [(cache, qkv, out)] => attend_span(config, *qkv, cache, out),
        _ => work.into_par_iter().for_each(|(cache, qkv, out)| attend_span(config, qkv, cache, out)),
    }
}

/// One span, in pieces between which a block of the tail is packed. The pieces end at the same tokens however
/// the sequence is cut into spans.
fn attend_span(config: &AttentionConfig, qkv: Qkv<'_>, cache: &mut LayerCache, out: &mut [f32]) {
    let tokens = qkv.k.len() / config.kv_row();
    let mut start = 0;
    while start < tokens {
        let end = tokens.min(start.saturating_add(cache.make_room()));
        let piece = qkv.slice(config, start..end);
        cache.append(piece.k, piece.v);
        cache.observe(piece.q, config.scale);
        attend_piece(config, piece.q, cache, &mut out[start * config.query_row()..end * config.query_row()]);
        start = end;
    }
}

/// The query heads of a KV head at some of the positions just appended.
struct Tile {
    kv_head: usize,
    /// Positions, counted from the first token appended.
    tokens: Range<usize>,
}

thread_local! {
    static SCRATCH: RefCell<TileScratch> = RefCell::default();
}

/// Attention of the tokens just appended: `q`, `out`: (tokens, query_heads * head_dim).
fn attend_piece(config: &AttentionConfig, q: &[f32], cache: &LayerCache, out: &mut [f32]) {
    let tokens = q.len() / config.query_row();
    let tile_tokens = (TILE_QUERIES / config.group()).max(1);
    let tiles: Vec<Tile> = (0..tokens)
        .step_by(tile_tokens)
        .map(|start| start..tokens.min(start + tile_tokens))
        .flat_map(|tokens| (0..config.kv_heads).map(move |kv_head| Tile { kv_head, tokens: tokens.clone() }))
        .collect();
    let compute = |tile: &Tile| attend_one(config, q, cache, tile);
    let results: Vec<Vec<f32>> = if q.len() * cache.kept_tokens() < SERIAL_WORK {
        tiles.iter().map(compute).collect()
    } else {
        tiles.par_iter().map(compute).collect()
    };
    let group_row = config.group() * config.head_dim;
    for (tile, heads) in tiles.iter().zip(results) {
        for (token, heads) in tile.tokens.clone().zip(heads.chunks_exact(group_row)) {
            let start = token * config.query_row() + tile.kv_head * group_row;
            out[start..start + group_row].copy_from_slice(heads);
        }
    }
}

/// One tile: (tokens, group * head_dim). Its rows are shared among threads; the sums are the same either way.
fn attend_one(config: &AttentionConfig, q: &[f32], cache: &LayerCache, tile: &Tile) -> Vec<f32> {
    let head = &cache.heads[tile.kv_head];
    let group_row = config.group() * config.head_dim;
    let appended = q.len() / config.query_row();
    let mut queries = Vec::with_capacity(tile.tokens.len() * group_row);
    let mut visible = Vec::with_capacity(tile.tokens.len() * config.group());
    for token in tile.tokens.clone() {
        let start = token * config.query_row() + tile.kv_head * group_row;
        queries.extend(q[start..start + group_row].iter().map(|channel| channel * config.scale));
        // Later tokens of the span are stored already, behind this one. Under a sliding window nothing is
        // evicted, so stored rows are positions.
        let end = head.len() - (appended - 1 - token);
        let first = config.sliding_window.map_or(0, |window| end.saturating_sub(window));
        visible.extend(std::iter::repeat_n(first..end, config.group()));
    }
    let (mut scaled_queries, mut scaled_offsets) = (Vec::new(), Vec::new());
    for query in queries.chunks_exact(config.head_dim) {
        head.scale_query(query, &mut scaled_queries, &mut scaled_offsets);
    }
    let query_tile = QueryTile {
        head_dim: config.head_dim,
        queries: &queries,
        scaled_queries: &scaled_queries,
        scaled_offsets: &scaled_offsets,
        visible: &visible,
    };
    let runs = head.runs();
    let first = visible.iter().map(|range| range.start).min().unwrap_or(0) / SPLIT;
    let last = visible.iter().map(|range| range.end).max().unwrap_or(0).div_ceil(SPLIT);
    let compute = |split: usize| {
        let rows = split * SPLIT..(split + 1) * SPLIT;
        SCRATCH.with_borrow_mut(|scratch| attend_tile(&query_tile, &runs, rows, scratch))
    };
    let partials: Vec<Partial> = match last - first {
        1 => vec![compute(first)],
        _ => (first..last).into_par_iter().map(compute).collect(),
    };
    let mut partials = partials.into_iter();
    let Some(mut all) = partials.next() else { return vec![0.0; queries.len()] };
    partials.for_each(|partial| all.merge(&partial));
    all.finish()
}
