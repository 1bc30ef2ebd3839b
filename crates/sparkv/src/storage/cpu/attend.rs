//! Attention over the rows of many sequences: tiles of queries, shared among threads.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, Result, Storage, Tensor};
use sparkv_kernels::{KEY_BLOCK, Partial, QueryTile, TileScratch, attend_tile};

use super::CpuLayer;
use super::head::HeadCache;
use crate::cache::{LayerCache, LayerSpan};
use crate::parallel;
use crate::shape::AttentionConfig;
use crate::storage::domain::Domains;
use crate::storage::{Layer, LayerStorage};

/// Queries that are computed together, of the heads of a group and of as many positions as that makes: each stored
/// row is read once for all of them.
const TILE_QUERIES: usize = 64;

/// Stored rows that are attended to at a time, so that few tiles over many rows keep all threads busy.
const SPLIT: usize = 16 * KEY_BLOCK;

/// Fewer tiles for each thread are cut into smaller parts.
const PARTS_PER_THREAD: usize = 8;

/// Multiplications below which a second thread costs more than it brings: some ten microseconds of work.
const SERIAL_WORK: usize = 1 << 17;

/// Calls `compute` with the values of a contiguous f32 tensor on the CPU.
fn with_rows<R>(tensor: &Tensor, compute: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => compute(&values[start..end]),
        _ => candle_core::bail!("attention has no kernel for {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

/// Appends and attends: [`crate::attend`] on this device.
///
/// # Errors
/// If the tensors are not on it.
pub(crate) fn attend_spans(
    config: &AttentionConfig,
    qkv: [&Tensor; 3],
    spans: &mut [LayerSpan<'_>],
) -> Result<Tensor> {
    let device = qkv[0].device().clone();
    let [q, k, v] = qkv;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let wanted = spans.iter().map(|span| span.wanted).sum::<usize>();
    let mut out = vec![0f32; wanted * config.query_row()];
    with_rows(&q, |q| {
        with_rows(&k, |k| with_rows(&v, |v| attend_rows(config, Qkv { q, k, v }, spans, &mut out)))
    })?;
    Tensor::from_vec(out, (wanted, config.query_row()), &device)
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

/// What of a span is not attended to yet.
struct Rest<'a> {
    qkv: Qkv<'a>,
    cache: &'a mut LayerCache,
    /// Tokens before the first that attention is wanted of.
    unwanted: usize,
    /// (tokens - unwanted, query_heads * head_dim)
    out: &'a mut [f32],
}

/// The part of a span that was just stored.
struct StoredSpan<'a> {
    /// (tokens, query_heads * head_dim)
    q: &'a [f32],
    layer: &'a CpuLayer,
    /// The first token that attention is wanted of.
    first: usize,
    /// (tokens - first, query_heads * head_dim)
    out: &'a mut [f32],
}

/// All spans; `out`: (wanted rows, query_heads * head_dim). A piece of each at a time, between which blocks of tails are
/// packed. The pieces of a sequence end at the same tokens however it is cut into spans.
fn attend_rows(
    config: &AttentionConfig,
    qkv: Qkv<'_>,
    spans: &mut [LayerSpan<'_>],
    mut out: &mut [f32],
) -> Result<()> {
    let mut rests = Vec::with_capacity(spans.len());
    let mut start = 0;
    for span in spans.iter_mut().filter(|span| span.tokens > 0) {
        let (rows, others) = std::mem::take(&mut out).split_at_mut(span.wanted * config.query_row());
        out = others;
        let qkv = qkv.slice(config, start..start + span.tokens);
        let unwanted = span.tokens - span.wanted;
        rests.push(Rest { qkv, cache: &mut *span.cache, unwanted, out: rows });
        start += span.tokens;
    }
    while !rests.is_empty() {
        let ends = rests.iter_mut().map(|rest| rest.store(config)).collect::<Result<Vec<usize>>>()?;
        let mut pieces = Vec::with_capacity(rests.len());
        for (rest, &tokens) in rests.iter_mut().zip(&ends) {
            let first = rest.unwanted.min(tokens);
            let q = &rest.qkv.q[..tokens * config.query_row()];
            let out = &mut rest.out[..(tokens - first) * config.query_row()];
            pieces.push(StoredSpan { q, layer: cpu_layer(rest.cache)?, first, out });
        }
        attend_stored(config, pieces);
        let rest = rests.into_iter().zip(ends).map(|(rest, tokens)| rest.after(config, tokens));
        rests = rest.filter(|rest| !rest.qkv.k.is_empty()).collect();
    }
    Ok(())
}

/// The storage of a cache that is in the process's memory.
fn cpu_layer(cache: &mut LayerCache) -> Result<&mut CpuLayer> {
    match &mut cache.storage {
        Layer::Cpu(layer) => Ok(layer),
        Layer::Device(_) => candle_core::bail!("tensors on the CPU do not go with a cache on another device"),
    }
}

impl<'a> Rest<'a> {
    /// Stores as many tokens as there is room for, and says how many that are.
    fn store(&mut self, config: &AttentionConfig) -> Result<usize> {
        let tokens = (self.qkv.k.len() / config.kv_row()).min(self.cache.make_room()?);
        let piece = self.qkv.slice(config, 0..tokens);
        let is_prompt = self.cache.begin_tokens(tokens)?;
        let plan = Arc::clone(&self.cache.plan);
        let layer = cpu_layer(self.cache)?;
        layer.append(&plan, tokens, piece.k, piece.v)?;
        if is_prompt {
            layer.observe(&plan, tokens, piece.q)?;
        }
        Ok(tokens)
    }

    /// What is left after `tokens`.
    fn after(self, config: &AttentionConfig, tokens: usize) -> Rest<'a> {
        let all = self.qkv.k.len() / config.kv_row();
        let first = self.unwanted.min(tokens);
        let (_, out) = self.out.split_at_mut((tokens - first) * config.query_row());
        let qkv = self.qkv.slice(config, tokens..all);
        Rest { qkv, cache: self.cache, unwanted: self.unwanted - first, out }
    }
}

/// The query heads of a KV head at some of the positions just appended.
struct Tile<'a> {
    /// The KV head's cache.
    head: &'a HeadCache,
    /// (tokens, group * head_dim): queries, times the attention scale.
    queries: Vec<f32>,
    /// (tokens, group * head_dim): the same for keys in the scaled domain, where there are any.
    scaled_queries: Vec<f32>,
    /// (tokens * group): see [`QueryTile`].
    scaled_offsets: Vec<f32>,
    /// (tokens * group): the stored rows each query sees.
    visible: Vec<Range<usize>>,
}

impl<'a> Tile<'a> {
    /// The tile of `kv_head` at the positions `tokens`, counted from the first token appended. `q`: queries of all
    /// tokens appended.
    fn new(
        config: &AttentionConfig,
        q: &[f32],
        layer: &'a CpuLayer,
        kv_head: usize,
        tokens: Range<usize>,
    ) -> Self {
        let head = &layer.heads[kv_head];
        let group_row = config.group() * config.head_dim;
        let appended = q.len() / config.query_row();
        let mut tile = Self {
            head,
            queries: Vec::with_capacity(tokens.len() * group_row),
            scaled_queries: Vec::new(),
            scaled_offsets: Vec::new(),
            visible: Vec::with_capacity(tokens.len() * config.group()),
        };
        for token in tokens {
            let start = token * config.query_row() + kv_head * group_row;
            tile.queries.extend(q[start..start + group_row].iter().map(|channel| channel * config.scale));
            // Later tokens of the span are stored already, behind this one. Under a sliding window nothing is
            // evicted, so stored rows are positions.
            let end = head.len() - (appended - 1 - token);
            let first = config.sliding_window.map_or(0, |window| end.saturating_sub(window));
            tile.visible.extend(std::iter::repeat_n(first..end, config.group()));
        }
        if let Some(domains) = head.domains() {
            for query in tile.queries.chunks_exact(config.head_dim) {
                domains.scale_query(query, &mut tile.scaled_queries, &mut tile.scaled_offsets);
            }
        }
        tile
    }

    /// The domains of quantized rows, where attention over them is to be restored before it is merged with that over dense
    /// rows.
    fn restored(&self) -> Option<&Domains> {
        self.head.domains().filter(|domains| domains.restores_values())
    }

    /// The [`SPLIT`]s that hold what it sees. Where quantized rows are restored, theirs come first, and the dense ones
    /// behind them have splits of their own.
    fn splits(&self) -> Range<usize> {
        let first = self.visible.iter().map(|range| range.start).min().unwrap_or(0);
        let last = self.visible.iter().map(|range| range.end).max().unwrap_or(0);
        if self.restored().is_none() {
            return first / SPLIT..last.div_ceil(SPLIT);
        }
        let quantized = self.head.quantized_len();
        first.min(quantized) / SPLIT
            ..quantized.div_ceil(SPLIT) + last.saturating_sub(quantized).div_ceil(SPLIT)
    }

    /// Attention over the rows of `splits`.
    fn attend(&self, config: &AttentionConfig, splits: Range<usize>) -> Option<Partial> {
        let tile = QueryTile {
            head_dim: config.head_dim,
            queries: &self.queries,
            scaled_queries: &self.scaled_queries,
            scaled_offsets: &self.scaled_offsets,
            visible: &self.visible,
        };
        let (quantized, dense) = (self.head.quantized_runs(), self.head.dense_runs());
        let rows = |split: usize| split * SPLIT..(split + 1) * SPLIT;
        SCRATCH.with_borrow_mut(|scratch| {
            let Some(domains) = self.restored() else {
                let runs = [quantized, dense].concat();
                return merge(splits.map(|split| attend_tile(&tile, &runs, rows(split), scratch)));
            };
            let border = self.head.quantized_len();
            let first_dense = border.div_ceil(SPLIT);
            let seen = |clip: fn(usize, usize) -> usize| -> Vec<Range<usize>> {
                let clipped = |range: &Range<usize>| clip(range.start, border)..clip(range.end, border);
                self.visible.iter().map(clipped).collect()
            };
            let (before, behind) = (seen(usize::min), seen(usize::saturating_sub));
            merge(splits.map(|split| {
                if split < first_dense {
                    let tile = QueryTile { visible: &before, ..tile };
                    let mut partial = attend_tile(&tile, &quantized, rows(split), scratch);
                    domains.restore(&mut partial);
                    partial
                } else {
                    let tile = QueryTile { visible: &behind, ..tile };
                    attend_tile(&tile, &dense, rows(split - first_dense), scratch)
                }
            }))
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<TileScratch> = RefCell::default();
}

/// From the first rows to the last, so that the sums are the same wherever they are made.
fn merge(parts: impl IntoIterator<Item = Partial>) -> Option<Partial> {
    parts.into_iter().reduce(|mut all, part| {
        all.merge(&part);
        all
    })
}

/// Attention of the tokens just appended to some caches.
fn attend_stored(config: &AttentionConfig, mut pieces: Vec<StoredSpan<'_>>) {
    let tile_tokens = (TILE_QUERIES / config.group()).max(1);
    // StoredSpan, KV head, tokens.
    let mut tiles: Vec<(usize, usize, Range<usize>)> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let tokens = piece.q.len() / config.query_row();
        for start in (piece.first..tokens).step_by(tile_tokens) {
            let end = tokens.min(start + tile_tokens);
            tiles.extend((0..config.kv_heads).map(|kv_head| (index, kv_head, start..end)));
        }
    }
    let make = |(piece, kv_head, tokens): &(usize, usize, Range<usize>)| {
        Tile::new(config, pieces[*piece].q, pieces[*piece].layer, *kv_head, tokens.clone())
    };
    let work: usize = pieces.iter().map(|piece| piece.q.len() * piece.layer.len()).sum();
    let results: Vec<Option<Partial>> = if work < SERIAL_WORK {
        tiles.iter().map(make).map(|tile| tile.attend(config, tile.splits())).collect()
    } else if tiles.len() < PARTS_PER_THREAD * parallel::threads().get() {
        // Few tiles over many rows are shared among threads by rows.
        let tiles: Vec<Tile<'_>> = tiles.iter().map(make).collect();
        let parts: Vec<(&Tile<'_>, usize)> =
            tiles.iter().flat_map(|tile| tile.splits().map(move |split| (tile, split))).collect();
        let mut parts = parallel::map(parts.len(), |part| {
            let (tile, split) = parts[part];
            tile.attend(config, split..split + 1)
        })
        .into_iter();
        tiles.iter().map(|tile| merge(parts.by_ref().take(tile.splits().len()).flatten())).collect()
    } else {
        parallel::map(tiles.len(), |tile| {
            let tile = make(&tiles[tile]);
            tile.attend(config, tile.splits())
        })
    };
    let group_row = config.group() * config.head_dim;
    for ((piece, kv_head, tokens), result) in tiles.into_iter().zip(results) {
        let Some(result) = result else { continue };
        let StoredSpan { first, out, .. } = &mut pieces[piece];
        for (token, heads) in tokens.zip(result.finish().chunks_exact(group_row)) {
            let start = (token - *first) * config.query_row() + kv_head * group_row;
            out[start..start + group_row].copy_from_slice(heads);
        }
    }
}
