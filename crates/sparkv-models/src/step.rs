//! A step of the decoder: one ragged batch of spans, of prompts and of what is decoded.
use candle_core::{Result, Tensor};
use sparkv::{LayerSpan, SequenceCache};

use crate::decoder::Decoder;
use crate::language_model::{ModelError, PREFILL_CHUNK, SpanStep};
use crate::logits::{Logits, LogitsRows};
use crate::profile::{self, Section};
use crate::span::Span;

/// Spans of at most this many tokens that get through in a step go through it as one block: they lie one after the
/// other in memory, so that a layer need not collect them first.
const BLOCK_TOKENS: usize = 16;

/// Rows of logits that are made at a time of spans with several: a row is as long as the vocabulary.
const LOGITS_ROWS: usize = 64;

/// A step at work.
struct Step<'a, 's> {
    decoder: &'a Decoder,
    spans: &'a mut [SpanStep<'s, SequenceCache, Span>],
    /// Which of them are rows of `block`.
    in_block: Vec<bool>,
    /// (rows, hidden), f32
    block: Option<Tensor>,
}

/// The rows of a span that go through a layer now.
struct Piece {
    /// Which span.
    index: usize,
    rows: usize,
    /// How many of them, the last ones, are needed further on: the others only leave their keys and values.
    wanted: usize,
}

impl Decoder {
    /// See [`crate::LanguageModel::step`].
    pub(crate) fn run_step(
        &self,
        spans: &mut [SpanStep<'_, SequenceCache, Span>],
    ) -> std::result::Result<Vec<LogitsRows>, ModelError> {
        let in_block = self.choose_block(spans);
        let block = self.embed_new(spans, &in_block)?;
        let first = spans.iter().map(|step| step.span.layer()).min().unwrap_or(0);
        let mut step = Step { decoder: self, spans, in_block, block };
        for layer in first..self.layers() {
            step.run_layer(layer)?;
        }
        Ok(step.logits()?)
    }

    /// Which spans go through the step as one block: short ones that get through, in one piece.
    fn choose_block(&self, spans: &[SpanStep<'_, SequenceCache, Span>]) -> Vec<bool> {
        let mut room = PREFILL_CHUNK;
        let chosen = spans.iter().map(|step| {
            let tokens = step.span.tokens().len();
            let chosen = step.span.is_new()
                && tokens <= BLOCK_TOKENS.min(room)
                && step.row_layers >= tokens * self.layers()
                && step.cache.prompt_left(0).is_none_or(|left| left == tokens);
            room -= if chosen { tokens } else { 0 };
            chosen
        });
        chosen.collect()
    }

    /// Embeds the spans that begin; gives the block.
    fn embed_new(
        &self,
        spans: &mut [SpanStep<'_, SequenceCache, Span>],
        in_block: &[bool],
    ) -> std::result::Result<Option<Tensor>, ModelError> {
        let tokens: Vec<u32> =
            chosen(spans, in_block).flat_map(|step| step.span.tokens().iter().copied()).collect();
        let block = if tokens.is_empty() { None } else { Some(self.embed(&tokens)?) };
        let mut start = 0;
        for (step, in_block) in spans.iter_mut().zip(in_block).filter(|(step, _)| step.span.is_new()) {
            let count = step.span.tokens().len();
            match &block {
                Some(block) if *in_block => {
                    step.span.embedded(block.narrow(0, start, count)?, 0, &self.pool);
                    start += count;
                }
                _ => {
                    let hidden = self.embed(step.span.tokens())?;
                    step.span.embedded(hidden, count * self.info.row_bytes, &self.pool);
                }
            }
        }
        Ok(block)
    }
}

/// Those of the spans that are in the block.
fn chosen<'a, 's>(
    spans: &'a [SpanStep<'s, SequenceCache, Span>],
    in_block: &'a [bool],
) -> impl Iterator<Item = &'a SpanStep<'s, SequenceCache, Span>> {
    spans.iter().zip(in_block).filter_map(|(step, chosen)| chosen.then_some(step))
}

impl Step<'_, '_> {
    /// Everything that is due in a layer: the block, together with the first pieces of other spans.
    fn run_layer(&mut self, layer: usize) -> Result<()> {
        loop {
            let pieces = self.pieces(layer);
            if pieces.is_empty() {
                return Ok(());
            }
            self.run(layer, &pieces)?;
        }
    }

    /// What may go through `layer` next: at most [`PREFILL_CHUNK`] rows beside the block, none across the end of a
    /// prompt.
    fn pieces(&self, layer: usize) -> Vec<Piece> {
        let mut room = PREFILL_CHUNK;
        let mut pieces = Vec::new();
        for (index, step) in self.spans.iter().enumerate().filter(|(_, step)| step.span.layer() == layer) {
            let left = step.span.left();
            let left = step.cache.prompt_left(layer).map_or(left, |prompt| left.min(prompt));
            let mut rows = left.min(step.row_layers);
            if !self.in_block[index] {
                rows = rows.min(room);
                room -= rows;
            }
            // Behind the last layer nothing is needed but what goes through the output head.
            let wanted = if layer + 1 == self.decoder.layers() { step.span.wanted(rows) } else { rows };
            if rows > 0 {
                pieces.push(Piece { index, rows, wanted });
            }
        }
        pieces
    }

    /// Runs pieces through a layer, all at once; they move on.
    fn run(&mut self, layer: usize, pieces: &[Piece]) -> Result<()> {
        let positions = pieces.iter().flat_map(|piece| self.spans[piece.index].span.positions(piece.rows));
        let rotation = self.decoder.rotation(positions)?;
        let rows = self.rows(pieces)?;
        let decoder = self.decoder;
        let all_wanted = pieces.iter().all(|piece| piece.wanted == piece.rows);
        let mut spans = layer_spans(self.spans, layer, pieces);
        match &rows[..] {
            [rows] if all_wanted => decoder.run_layer(layer, rows, &rotation, &mut spans)?,
            rows => {
                let all = Tensor::cat(rows, 0)?;
                let out = decoder.run_layer_for_wanted(layer, &all, &rotation, &mut spans)?;
                drop(spans);
                if let Some(out) = out {
                    self.scatter(&out, pieces)?;
                }
            }
        }
        pieces.iter().try_for_each(|piece| self.advance(layer, piece))
    }

    /// The rows of pieces: one tensor where they lie one after the other.
    fn rows(&self, pieces: &[Piece]) -> Result<Vec<Tensor>> {
        match &self.block {
            Some(block) if pieces.iter().all(|piece| self.in_block[piece.index]) => Ok(vec![block.clone()]),
            _ => pieces.iter().map(|piece| self.spans[piece.index].span.next_rows(piece.rows)).collect(),
        }
    }

    /// Puts a layer's output, the wanted rows of all, where its input was.
    fn scatter(&self, out: &Tensor, pieces: &[Piece]) -> Result<()> {
        let mut start = 0;
        for piece in pieces.iter().filter(|piece| piece.wanted > 0) {
            let rows = self.spans[piece.index].span.next_rows(piece.rows)?;
            rows.slice_set(&out.narrow(0, start, piece.wanted)?, 0, piece.rows - piece.wanted)?;
            start += piece.wanted;
        }
        Ok(())
    }

    /// After a piece went through a layer.
    fn advance(&mut self, layer: usize, piece: &Piece) -> Result<()> {
        let step = &mut self.spans[piece.index];
        step.row_layers -= piece.rows;
        if step.cache.prompt_left(layer) == Some(0)
            && let Some(cache) = step.cache.layers_mut().get_mut(layer)
        {
            profile::on(Section::Attention, || cache.finish_prompt())?;
        }
        step.span.advance(piece.rows);
        Ok(())
    }

    /// Logits of what is through all layers.
    fn logits(&mut self) -> Result<Vec<LogitsRows>> {
        let counts = self.logits_rows();
        let [mut few, mut whole] = self.read_logits(&counts)?.map(Vec::into_iter);
        let each = self.spans.iter_mut().zip(counts).map(|(step, count)| {
            let last = count > 0 && count == step.span.logits_left();
            step.row_layers = step.row_layers.saturating_sub(count - usize::from(last));
            if count > 0 {
                step.span.advance_logits(count);
            }
            let rows = if step.span.likeliest().is_some() { &mut few } else { &mut whole };
            rows.by_ref().take(count).collect()
        });
        Ok(each.collect())
    }

    /// The next rows of logits, so many of each span: of those of which some logits are enough, and of the others.
    fn read_logits(&self, counts: &[usize]) -> Result<[Vec<Logits>; 2]> {
        let [mut few, mut whole] = [const { Vec::new() }; 2];
        let (mut few_rows, mut likeliest) = (0, 0);
        for (step, &count) in self.spans.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let hidden = step.span.next_for_head(count)?;
            match step.span.likeliest() {
                Some(enough) => {
                    few.push(hidden);
                    (few_rows, likeliest) = (few_rows + count, likeliest.max(enough));
                }
                None => whole.push(hidden),
            }
        }
        few.append(&mut whole);
        if few.is_empty() {
            return Ok(Default::default());
        }
        let mut few = self.decoder.read_logits(&Tensor::cat(&few, 0)?, few_rows, likeliest)?;
        let whole = few.split_off(few_rows);
        Ok([few, whole])
    }

    /// How many rows of logits of each span are made in this step.
    fn logits_rows(&self) -> Vec<usize> {
        let mut room = LOGITS_ROWS;
        let each = self.spans.iter().zip(&self.in_block).map(|(step, in_block)| {
            if step.span.layer() < self.decoder.layers() {
                return 0;
            }
            match step.span.logits_left() {
                left if left <= 1 || *in_block => left,
                left => {
                    // The last is not counted.
                    let paid = if left - 1 <= step.row_layers { left } else { step.row_layers };
                    let rows = paid.min(room);
                    room -= rows;
                    rows
                }
            }
        });
        each.collect()
    }
}

/// The sequences' parts of the rows in a layer.
fn layer_spans<'a>(
    spans: &'a mut [SpanStep<'_, SequenceCache, Span>],
    layer: usize,
    pieces: &[Piece],
) -> Vec<LayerSpan<'a>> {
    let mut pieces = pieces.iter().peekable();
    let spans = spans.iter_mut().enumerate().filter_map(|(index, step)| {
        let piece = pieces.next_if(|piece| piece.index == index)?;
        let cache = step.cache.layers_mut().get_mut(layer)?;
        Some(LayerSpan { tokens: piece.rows, wanted: piece.wanted, cache })
    });
    spans.collect()
}
