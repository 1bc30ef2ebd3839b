//! Attention over the rows of many sequences on a device.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use sparkv_device::rows::{Run, Units};
use sparkv_device::{
    AttentionMemory, AttentionPlan, AttentionShape, AttentionSpan, StoredRows, Tables, View,
};

use super::memory::DeviceMemory;
use super::store::Store;
use crate::accelerator::{failed, make, read, with_scratch};
use crate::cache::{LayerCache, LayerSpan};
use crate::shape::AttentionConfig;
use crate::storage::{Layer, LayerStorage};

/// Appends and attends: [`crate::attend`] on this device.
///
/// # Errors
/// If the caches or tensors are not on it, or it fails.
pub(crate) fn attend_spans(
    memory: &DeviceMemory,
    config: &AttentionConfig,
    qkv: [&Tensor; 3],
    spans: &mut [LayerSpan<'_>],
) -> Result<Tensor> {
    let [q, k, v] = qkv;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let wanted = spans.iter().map(|span| span.wanted).sum::<usize>();
    make(memory.accelerator(), (wanted, config.query_row()), |out| {
        read(&q, |q| read(&k, |k| read(&v, |v| attend_rows(memory, config, Batch { q, k, v, out }, spans))))
    })
}

/// The batch's rows on the device.
#[derive(Clone, Copy)]
struct Batch<'a> {
    /// (rows, query_heads * head_dim)
    q: View<'a>,
    /// (rows, kv_heads * head_dim)
    k: View<'a>,
    /// (rows, kv_heads * head_dim)
    v: View<'a>,
    /// (wanted rows, query_heads * head_dim)
    out: View<'a>,
}

/// What of a span is not attended to yet.
struct Rest<'a> {
    cache: &'a mut LayerCache,
    /// Its next row in the batch.
    row: usize,
    /// Rows that are left.
    tokens: usize,
    /// How many of them come before the first that attention is wanted of.
    unwanted: usize,
    /// The row of the output that the first wanted one goes to.
    out: usize,
}

/// Rows that were just stored.
struct Piece {
    is_prompt: bool,
    row: usize,
    tokens: usize,
    unwanted: usize,
    out: usize,
}

/// A piece of each span at a time, between which blocks of tails are quantized, as on the CPU: the pieces of a sequence end at
/// the same tokens however it is cut into spans.
fn attend_rows(
    memory: &DeviceMemory,
    config: &AttentionConfig,
    batch: Batch<'_>,
    spans: &mut [LayerSpan<'_>],
) -> Result<()> {
    let mut rests = Vec::with_capacity(spans.len());
    let (mut row, mut out) = (0, 0);
    for span in spans.iter_mut().filter(|span| span.tokens > 0) {
        let (tokens, unwanted) = (span.tokens, span.tokens - span.wanted);
        rests.push(Rest { cache: &mut *span.cache, row, tokens, unwanted, out });
        (row, out) = (row + tokens, out + span.wanted);
    }
    while !rests.is_empty() {
        let pieces =
            rests.iter_mut().map(|rest| rest.store(config, batch)).collect::<Result<Vec<Piece>>>()?;
        attend_stored(memory, config, batch, rests.iter().map(|rest| &*rest.cache).zip(&pieces))?;
        rests.retain(|rest| rest.tokens > 0);
    }
    Ok(())
}

impl Rest<'_> {
    /// Stores as many tokens as there is room for.
    fn store(&mut self, config: &AttentionConfig, batch: Batch<'_>) -> Result<Piece> {
        let tokens = self.tokens.min(self.cache.make_room()?);
        let is_prompt = self.cache.begin_tokens(tokens)?;
        let plan = Arc::clone(&self.cache.plan);
        let Layer::Device(layer) = &mut self.cache.storage else {
            bail!("tensors on a device do not go with a cache on the CPU");
        };
        let [q, k, v] =
            [(batch.q, config.query_row()), (batch.k, config.kv_row()), (batch.v, config.kv_row())].map(
                |(view, row)| {
                    let row = row * size_of::<f32>();
                    view.part(self.row * row, tokens * row).map_err(failed)
                },
            );
        layer.append(&plan, tokens, k?, v?)?;
        if is_prompt {
            layer.observe(&plan, tokens, q?)?;
        }
        let unwanted = self.unwanted.min(tokens);
        let piece = Piece { is_prompt, row: self.row, tokens, unwanted, out: self.out };
        self.row += tokens;
        self.tokens -= tokens;
        self.unwanted -= unwanted;
        self.out += tokens - unwanted;
        Ok(piece)
    }
}

/// Attention of the tokens just stored.
fn attend_stored<'a>(
    memory: &DeviceMemory,
    config: &AttentionConfig,
    batch: Batch<'_>,
    pieces: impl Iterator<Item = (&'a LayerCache, &'a Piece)>,
) -> Result<()> {
    // Nothing is stored any more: all is where it stays.
    let stored: Vec<(Stored, &Piece)> = pieces
        .filter(|(_, piece)| piece.unwanted < piece.tokens)
        .filter_map(|(cache, piece)| Some((Stored::of(cache)?, piece)))
        .collect();
    let spans: Vec<AttentionSpan<'_>> =
        stored.iter().map(|(stored, piece)| stored.span(config, piece)).collect();
    if spans.is_empty() {
        return Ok(());
    }
    let shape = AttentionShape {
        query_heads: config.query_heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: config.scale,
    };
    let plan = AttentionPlan::new(memory.device(), &shape, &spans).map_err(failed)?;
    with_scratch(memory.accelerator(), plan.scratch_bytes(), |scratch| {
        let views =
            AttentionMemory { pool: memory.view().read_only(), queries: batch.q, scratch, out: batch.out };
        plan.launch(memory.device(), views).map_err(failed)
    })
}

/// Where a layer's rows are.
struct Stored {
    quantized: Option<(Units, Vec<Run>, Tables)>,
    dense: (Units, Vec<Run>),
    rows: usize,
}

impl Stored {
    /// `None` for a cache that is on the CPU.
    fn of(cache: &LayerCache) -> Option<Self> {
        let Layer::Device(layer) = &cache.storage else { return None };
        let (dense, blocks) = (layer.dense(), layer.quantized());
        // Blocks that nothing was done to are rows like any others.
        let as_they_were = blocks.filter(|store| store.units.is_dense());
        let quantized = blocks.filter(|store| !store.units.is_dense()).zip(layer.domains());
        Some(Self {
            quantized: quantized.map(|(store, domains)| (store.units, store.runs(), domains.tables())),
            dense: (dense.units, [as_they_were.map_or_else(Vec::new, Store::runs), dense.runs()].concat()),
            rows: layer.len(),
        })
    }

    /// The rows of `piece` that attention is wanted of; the piece's are the last ones stored.
    fn span(&self, config: &AttentionConfig, piece: &Piece) -> AttentionSpan<'_> {
        let rows = piece.tokens - piece.unwanted;
        let stored = |units: &Units, runs| StoredRows { units: *units, runs };
        let quantized = self.quantized.as_ref();
        AttentionSpan {
            query: piece.row + piece.unwanted,
            out: piece.out,
            rows,
            end: self.rows + 1 - rows,
            // Under a sliding window nothing is evicted, so stored rows are positions.
            window: config.sliding_window,
            quantized: quantized.map(|(units, runs, tables)| (stored(units, runs), *tables)),
            dense: stored(&self.dense.0, &self.dense.1),
            is_prompt: piece.is_prompt,
        }
    }
}
