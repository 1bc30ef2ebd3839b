//! A step of the decoder: one ragged batch of decoded tokens and of prompts on their way through the layers.
use candle_core::{Result, Tensor};
use sparkv::pool::Charge;
use sparkv::{SequenceCache, Span};

use crate::decoder::Decoder;
use crate::language_model::{DecodeStep, ModelError, PREFILL_CHUNK, PrefillStep, StepOutput};
use crate::profile::{self, Part};

/// Tokens on their way through the layers of a [`Decoder`]: layer by layer, each in pieces.
#[derive(Debug)]
pub struct Prefill {
    /// (tokens, hidden), f32: those before `row` as layer `layer` left them, the others as it will get them.
    hidden: Tensor,
    /// Position of the first token.
    start: usize,
    tokens: usize,
    layer: usize,
    row: usize,
    _charge: Charge,
}

impl Prefill {
    /// `hidden`: (tokens, hidden), f32, the embeddings of the tokens from the position `start` on.
    pub(crate) fn new(hidden: Tensor, start: usize, charge: Charge) -> Result<Self> {
        let tokens = hidden.dim(0)?;
        Ok(Self { hidden, start, tokens, layer: 0, row: 0, _charge: charge })
    }

    /// (1, hidden): the last token, as the last layer left it.
    fn last(&self) -> Result<Tensor> {
        self.hidden.narrow(0, self.tokens - 1, 1)
    }
}

/// A step at work.
struct Step<'a, 'd, 'p> {
    decoder: &'a Decoder,
    decode: &'a mut [DecodeStep<'d, SequenceCache>],
    prefills: &'a mut [PrefillStep<'p, SequenceCache, Prefill>],
    /// (decode.len(), hidden), if anything is decoded.
    hidden: Option<Tensor>,
    /// Positions of what is decoded.
    positions: Vec<usize>,
}

/// The rows of a prefill that go through a layer now.
struct Piece {
    /// Which prefill.
    index: usize,
    rows: usize,
    /// How many of them, the last ones, are needed further on: the others only leave their keys and values.
    wanted: usize,
}

impl Decoder {
    /// See [`crate::LanguageModel::step`].
    pub(crate) fn run_step(
        &self,
        decode: &mut [DecodeStep<'_, SequenceCache>],
        prefills: &mut [PrefillStep<'_, SequenceCache, Prefill>],
    ) -> std::result::Result<StepOutput, ModelError> {
        let tokens: Vec<u32> = decode.iter().map(|step| step.token).collect();
        let hidden = if tokens.is_empty() { None } else { Some(self.embed(&tokens)?) };
        let positions = decode.iter().map(|step| step.cache.len()).collect();
        let first = match &hidden {
            Some(_) => 0,
            None => prefills.iter().map(|step| step.prefill.layer).min().unwrap_or(0),
        };
        let mut step = Step { decoder: self, decode, prefills, hidden, positions };
        for layer in first..self.layers() {
            step.run_layer(layer)?;
        }
        Ok(step.output()?)
    }
}

impl Step<'_, '_, '_> {
    /// Everything that is due in a layer: what is decoded, together with the first pieces of prefills.
    fn run_layer(&mut self, layer: usize) -> Result<()> {
        let mut pieces = self.pieces(layer);
        if let Some(hidden) = self.hidden.take() {
            self.run(layer, Some(&hidden), &pieces)?;
            self.hidden = Some(hidden);
            pieces = self.pieces(layer);
        }
        while !pieces.is_empty() {
            self.run(layer, None, &pieces)?;
            pieces = self.pieces(layer);
        }
        Ok(())
    }

    /// What of the prefills may go through `layer` next: at most [`PREFILL_CHUNK`] rows, none across the end of
    /// a prompt.
    fn pieces(&self, layer: usize) -> Vec<Piece> {
        let mut room = PREFILL_CHUNK;
        let mut pieces = Vec::new();
        for (index, step) in self.prefills.iter().enumerate().filter(|(_, step)| step.prefill.layer == layer)
        {
            let left = step.prefill.tokens - step.prefill.row;
            let left = step.cache.prompt_left(layer).map_or(left, |prompt| left.min(prompt));
            let rows = left.min(room).min(step.row_layers);
            // Behind the last layer nothing is needed but the last row.
            let ends = step.prefill.row + rows == step.prefill.tokens;
            let wanted = if layer + 1 == self.decoder.layers() { usize::from(ends) } else { rows };
            if rows > 0 {
                pieces.push(Piece { index, rows, wanted });
            }
            room -= rows;
        }
        pieces
    }

    /// Runs rows through a layer, all at once: `decoded`, which is replaced, and `pieces` of prefills, which move
    /// on.
    fn run(&mut self, layer: usize, decoded: Option<&Tensor>, pieces: &[Piece]) -> Result<()> {
        let mut rows: Vec<Tensor> = decoded.into_iter().cloned().collect();
        let mut positions = if decoded.is_some() { self.positions.clone() } else { Vec::new() };
        for &Piece { index, rows: count, .. } in pieces {
            let prefill = &self.prefills[index].prefill;
            rows.push(prefill.hidden.narrow(0, prefill.row, count)?);
            let start = prefill.start + prefill.row;
            positions.extend(start..start + count);
        }
        let rotation = self.decoder.rotation(positions.into_iter())?;
        let decoder = self.decoder;
        let mut spans = self.spans(layer, decoded.is_some(), pieces);
        let all_wanted = spans.iter().all(|span| span.wanted == span.tokens);
        match &rows[..] {
            [rows] if all_wanted => decoder.run_layer(layer, rows, &rotation, &mut spans)?,
            rows => {
                let all = Tensor::cat(rows, 0)?;
                let out = decoder.run_layer_for_wanted(layer, &all, &rotation, &mut spans)?;
                drop(spans);
                if let Some(out) = out {
                    self.scatter(&out, decoded, pieces)?;
                }
            }
        }
        pieces.iter().try_for_each(|piece| self.advance(layer, piece))
    }

    /// The sequences' parts of the rows in a layer: what is decoded, if `decoded`, then `pieces`.
    fn spans(&mut self, layer: usize, decoded: bool, pieces: &[Piece]) -> Vec<Span<'_>> {
        let decode = self.decode.iter_mut().filter(|_| decoded).map(|step| (1, 1, &mut *step.cache));
        let mut pieces = pieces.iter().peekable();
        let prefills = self.prefills.iter_mut().enumerate().filter_map(|(index, step)| {
            let piece = pieces.next_if(|piece| piece.index == index)?;
            Some((piece.rows, piece.wanted, &mut *step.cache))
        });
        let spans = decode.chain(prefills).filter_map(|(tokens, wanted, cache)| {
            Some(Span { tokens, wanted, cache: cache.layers_mut().get_mut(layer)? })
        });
        spans.collect()
    }

    /// Puts a layer's output, the wanted rows of all, where its input was.
    fn scatter(&self, out: &Tensor, decoded: Option<&Tensor>, pieces: &[Piece]) -> Result<()> {
        let mut start = 0;
        if let Some(decoded) = decoded {
            start = decoded.dim(0)?;
            decoded.slice_set(&out.narrow(0, 0, start)?, 0, 0)?;
        }
        for piece in pieces.iter().filter(|piece| piece.wanted > 0) {
            let prefill = &self.prefills[piece.index].prefill;
            let first = prefill.row + piece.rows - piece.wanted;
            prefill.hidden.slice_set(&out.narrow(0, start, piece.wanted)?, 0, first)?;
            start += piece.wanted;
        }
        Ok(())
    }

    /// After a piece went through a layer.
    fn advance(&mut self, layer: usize, piece: &Piece) -> Result<()> {
        let step = &mut self.prefills[piece.index];
        step.row_layers -= piece.rows;
        if step.cache.prompt_left(layer) == Some(0)
            && let Some(cache) = step.cache.layers_mut().get_mut(layer)
        {
            profile::on(Part::Attention, || cache.finish_prompt())?;
        }
        step.prefill.row += piece.rows;
        if step.prefill.row == step.prefill.tokens {
            (step.prefill.layer, step.prefill.row) = (layer + 1, 0);
        }
        Ok(())
    }

    /// The logits of what is through all layers.
    fn output(&self) -> Result<StepOutput> {
        let done =
            |step: &PrefillStep<'_, SequenceCache, Prefill>| step.prefill.layer == self.decoder.layers();
        let mut last: Vec<Tensor> = self.hidden.iter().cloned().collect();
        for step in self.prefills.iter().filter(|step| done(step)) {
            last.push(step.prefill.last()?);
        }
        let mut rows = if last.is_empty() {
            Vec::new()
        } else {
            self.decoder.logits(&Tensor::cat(&last, 0)?)?.to_vec2()?
        }
        .into_iter();
        Ok(StepOutput {
            decoded: rows.by_ref().take(self.decode.len()).collect(),
            prefilled: self.prefills.iter().map(|step| if done(step) { rows.next() } else { None }).collect(),
        })
    }
}
