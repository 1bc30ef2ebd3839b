//! Tokens of one sequence on their way through the layers of a decoder: a prompt, or what is decoded.
use candle_core::{Result, Tensor};
use sparkv::pool::{Charge, KvPool};
use sparkv_device::MAX_TOP_K;

use crate::logits::LogitsWanted;

/// Tokens on their way through the layers of a [`Decoder`](crate::Decoder): layer by layer, each in pieces; then some
/// of them through the output head.
#[derive(Debug)]
pub struct Span {
    tokens: Vec<u32>,
    /// Of at least one row.
    wanted: LogitsWanted,
    /// Position of the first token.
    start: usize,
    /// `None` until the first step.
    rows: Option<Rows>,
    /// The layer they are at; behind the last one, the output head.
    layer: usize,
    /// How many rows went through that.
    row: usize,
}

/// The hidden states of a span.
#[derive(Debug)]
struct Rows {
    /// (tokens, hidden), f32: those before `row` as the layer left them, the others as it will get them.
    hidden: Tensor,
    /// What they hold between steps.
    charge: Charge,
}

impl Span {
    pub(crate) fn new(tokens: &[u32], wanted: LogitsWanted, start: usize) -> Self {
        Self { tokens: tokens.to_vec(), wanted, start, rows: None, layer: 0, row: 0 }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The layer that its next rows go through; the number of layers where that is the output head.
    pub(crate) fn layer(&self) -> usize {
        self.layer
    }

    /// Whether it was in no step yet.
    pub(crate) fn is_new(&self) -> bool {
        self.rows.is_none()
    }

    /// Begins with its embeddings, (tokens, hidden), f32, of which `bytes` will be held between steps.
    pub(crate) fn embedded(&mut self, hidden: Tensor, bytes: usize, pool: &KvPool) {
        self.rows = Some(Rows { hidden, charge: pool.charge(bytes) });
    }

    /// Bytes held between steps.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.as_ref().map_or(0, |rows| rows.charge.bytes())
    }

    /// Rows that did not go through its layer yet.
    pub(crate) fn left(&self) -> usize {
        self.tokens.len() - self.row
    }

    /// Rows of logits that were not made yet, once it is at the output head.
    pub(crate) fn logits_left(&self) -> usize {
        self.wanted.rows - self.row
    }

    /// How many of a row's logits are enough; `None` where all are wanted, or they are too many to be found.
    pub(crate) fn likeliest(&self) -> Option<usize> {
        self.wanted.likeliest.filter(|likeliest| (1..=MAX_TOP_K).contains(likeliest))
    }

    /// Positions of the next `count` rows.
    pub(crate) fn positions(&self, count: usize) -> std::ops::Range<usize> {
        self.start + self.row..self.start + self.row + count
    }

    /// How many of the next `count` rows, the last ones, logits are wanted of.
    pub(crate) fn wanted(&self, count: usize) -> usize {
        (self.row + count).saturating_sub(self.row.max(self.tokens.len() - self.wanted.rows))
    }

    /// The next `count` rows, (count, hidden): a view, to be written to.
    pub(crate) fn next_rows(&self, count: usize) -> Result<Tensor> {
        self.hidden()?.narrow(0, self.row, count)
    }

    /// The next `count` rows for the output head.
    pub(crate) fn next_for_head(&self, count: usize) -> Result<Tensor> {
        self.hidden()?.narrow(0, self.tokens.len() - self.wanted.rows + self.row, count)
    }

    /// After `count` rows went through its layer.
    pub(crate) fn advance(&mut self, count: usize) {
        self.row += count;
        if self.row == self.tokens.len() {
            (self.layer, self.row) = (self.layer + 1, 0);
        }
    }

    /// After `count` rows went through the output head.
    pub(crate) fn advance_logits(&mut self, count: usize) {
        self.row += count;
    }

    fn hidden(&self) -> Result<&Tensor> {
        match &self.rows {
            Some(rows) => Ok(&rows.hidden),
            None => candle_core::bail!("a span that was not embedded"),
        }
    }
}
