//! What settings mean for one model and one prompt: layouts, counts, and the bytes that follow from them.

mod bytes;
pub(crate) mod growth;

use sparkv_kernels::{
    BLOCK, Fill, Format, GROUP, KeptFormat, Layout, LayoutError, Packing, SET, Side, Widths,
};

use self::growth::{Growth, Limit, chunk_bytes, chunks};
use crate::eviction::{Choice, Prompt, Score, Survivors};
use crate::settings::{Allocation, KvSettings, Precision, QueryStatistic, SettingsError};
use crate::shape::KvShape;

/// The tokens after which what a cache holds has grown and shrunk again.
pub(crate) const TOOTH: usize = 2 * BLOCK;

/// Queries held at most of a layer's prompt, where queries from all of it are needed. A fact is told from filler by the
/// queries of its own tokens and of its neighbours, so that a thinner sample misses some; it is as long in bytes as the
/// longest window twice.
pub(crate) const MAX_SAMPLE: usize = 2048;

/// What is done to keys before they are quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum KeyDomain {
    /// Nothing.
    Plain,
    /// Channels are scaled by the energy of queries; `centered`: without the mean.
    Scaled { centered: bool },
    /// Rotated, without the mean.
    Rotated,
    /// Without the mean, each channel in steps of its own, with `bits` on average.
    Allotted { bits: u8 },
}

/// The most bits that a channel is allotted.
pub(crate) const MOST_BITS: u8 = 6;

/// Pairs of bits that sets of channels are allotted, where `bits` are the average.
pub(crate) fn bit_pairs(bits: u8, head_dim: usize) -> usize {
    usize::from(bits) * (head_dim / SET) / 2
}

/// Bits of channels, as even as can be, of as many bytes as any other allotment of `bits` on average.
fn even_allotment(bits: u8, head_dim: usize) -> Option<Widths> {
    let (sets, pairs) = (head_dim / SET, bit_pairs(bits, head_dim));
    let each = pairs.checked_div(sets)?;
    let bits_of = |pairs: usize| u8::try_from(2 * pairs).unwrap_or(u8::MAX);
    let more = pairs % sets;
    Widths::allotted(&[(bits_of(each + 1), more * SET), (bits_of(each), (sets - more) * SET)])
}

/// How tokens that have left the window are quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct QuantizePlan {
    /// Where bits are allotted to channels, any layout of as many bytes.
    pub(crate) keys: Layout,
    pub(crate) values: Layout,
    pub(crate) key_domain: KeyDomain,
    /// Whether values are stored rotated, without their mean: what has few bits wants channels that are alike.
    pub(crate) rotates_values: bool,
    /// Tokens held in quantized blocks, a multiple of [`BLOCK`]; more overwrite the oldest.
    pub(crate) limit: usize,
    /// Dense tokens behind the sinks before a block of them is quantized.
    pub(crate) tail_limit: usize,
}

impl QuantizePlan {
    /// Whether the domain of keys depends on what queries ask of them.
    pub(crate) fn observes_queries(&self) -> bool {
        matches!(self.key_domain, KeyDomain::Scaled { .. } | KeyDomain::Allotted { .. })
    }

    /// Bytes that the domains of a KV head's rows take.
    pub(crate) fn domain_bytes(&self) -> usize {
        let head_dim = self.keys.head_dim();
        let row = size_of::<f32>() * head_dim;
        let keys = match self.key_domain {
            KeyDomain::Plain => 0,
            KeyDomain::Scaled { centered: true } => 2 * row,
            KeyDomain::Scaled { centered: false } | KeyDomain::Rotated => row,
            KeyDomain::Allotted { .. } => 3 * row + size_of::<u16>() * head_dim,
        };
        keys + if self.rotates_values { row } else { 0 }
    }

    /// Tokens of a prompt that are quantized, of `tokens` that stay behind the sinks: whole blocks.
    pub(crate) fn quantized(&self, tokens: usize, window: usize) -> usize {
        (tokens.saturating_sub(window) / BLOCK * BLOCK).min(self.limit)
    }
}

/// How the caches of one sequence store what they see.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CachePlan {
    pub(crate) shape: KvShape,
    /// Keys as the prompt computes them, and of sinks and tail: f16, or f32 if asked.
    pub(crate) dense_keys: Layout,
    /// Values likewise.
    pub(crate) dense_values: Layout,
    /// `None` where tokens stay dense.
    pub(crate) quantize: Option<QuantizePlan>,
    pub(crate) sinks: usize,
    /// The first tokens of the prompt that stay, sinks among them, as far as there is room.
    pub(crate) protected: usize,
    pub(crate) window: usize,
    pub(crate) survivors: Survivors,
    pub(crate) statistic: QueryStatistic,
    pub(crate) prompt_tokens: usize,
}

impl CachePlan {
    /// # Errors
    /// If the model's shape cannot take these settings.
    pub(crate) fn new(
        shape: KvShape,
        settings: &KvSettings,
        prompt_tokens: usize,
    ) -> Result<Self, SettingsError> {
        let prompt = Prompt {
            layers: shape.layers,
            tokens: prompt_tokens,
            always: settings.sinks + settings.window,
            least: settings.min_tokens(),
        };
        let survivors = settings.eviction.map_or(Survivors::All, |eviction| eviction.survivors(&prompt));
        let slides = shape.attention.sliding_window.is_some();
        if slides && survivors != Survivors::All {
            let reason = "this model attends to a sliding window by itself; eviction on top is not supported";
            return Err(SettingsError::new("eviction.policy", reason));
        }
        let dense = match settings.key_precision {
            Precision::F32 => Format::F32,
            _ => Format::F16,
        };
        let layout = |side, format| layout(&shape, "precision", side, format);
        Ok(Self {
            shape,
            dense_keys: layout(Side::Keys, dense)?,
            dense_values: layout(Side::Values, dense)?,
            quantize: if settings.quantizes() {
                Some(quantize_plan(&shape, settings, &survivors)?)
            } else {
                None
            },
            // A sliding window moves past the first tokens: they are like any other.
            sinks: if slides { 0 } else { settings.sinks },
            protected: settings.system_tokens,
            window: settings.window,
            survivors,
            statistic: settings.query_statistic,
            prompt_tokens,
        })
    }

    /// Checks that devices can do it.
    ///
    /// # Errors
    /// For pruned rows whose other channels are f32: they are for tests of exactness on the CPU.
    pub(crate) fn check_for_device(&self) -> Result<(), SettingsError> {
        let mut layouts = self.quantize.iter().flat_map(|quantize| [quantize.keys, quantize.values]);
        let is_exact = |layout: &Layout| {
            matches!(layout.format(), Format::Packed(Packing { values: KeptFormat::F32, .. }))
        };
        if layouts.any(|layout| is_exact(&layout)) {
            let reason = "f32 does not go with pruning on a GPU; leave it out, or use `--device cpu`";
            return Err(SettingsError::new("precision", reason));
        }
        Ok(())
    }

    /// Quantizes nothing that follows the prompt, unless the number of tokens is bounded at all times.
    pub(crate) fn keep_tail_dense(&mut self) {
        let bounded = matches!(self.survivors, Survivors::Recent(_));
        if let Some(quantize) = self.quantize.as_mut().filter(|_| !bounded) {
            quantize.tail_limit = usize::MAX / 2;
        }
    }

    /// Whether the prompt's last queries are needed.
    pub(crate) fn observes_window(&self) -> bool {
        self.quantize.is_some_and(|quantize| quantize.observes_queries())
            || self.survivors.score() == Some(Score::WindowAttention)
    }

    /// Whether queries from all of the prompt are needed.
    pub(crate) fn samples_queries(&self) -> bool {
        self.survivors.score() == Some(Score::ExpectedAttention)
    }

    /// Tokens of a prompt that need not be computed where its first `tokens` are held already: whole groups, and
    /// not those whose queries are needed.
    pub(crate) fn shareable(&self, tokens: usize) -> usize {
        let needed = match (self.samples_queries(), self.observes_window()) {
            (true, _) => self.prompt_tokens,
            (false, true) => self.window,
            (false, false) => 1,
        };
        tokens.min(self.prompt_tokens.saturating_sub(needed)) / GROUP * GROUP
    }

    /// The tokens of a prompt of `tokens` that stay in `layer`, in order, given what they score (tokens): all of them,
    /// the best, or the most recent where there are no scores.
    pub(crate) fn survivors_of(&self, layer: usize, tokens: usize, scores: Option<&[f32]>) -> Vec<usize> {
        let count = self.survivors.count(layer, tokens);
        if count == tokens {
            return (0..tokens).collect();
        }
        Choice { tokens, count, sinks: self.first_kept(count), window: self.window }.survivors(scores)
    }

    /// The first tokens that stay, of `count` that do: all that are protected, but for what the window and a block take.
    fn first_kept(&self, count: usize) -> usize {
        self.protected.min(count.saturating_sub(self.window + BLOCK)).max(self.sinks)
    }

    /// Rows of quantized blocks that are never overwritten: those of protected tokens, whole blocks.
    pub(crate) fn pinned_rows(&self) -> usize {
        match (&self.survivors, &self.quantize) {
            (Survivors::Recent(count), Some(quantize)) => {
                let protected = self.first_kept(*count).saturating_sub(self.sinks).div_ceil(BLOCK) * BLOCK;
                protected.min(quantize.limit.saturating_sub(BLOCK))
            }
            _ => 0,
        }
    }

    /// Whether tokens of the prompt may be gone once it is compressed.
    pub(crate) fn drops_prompt_tokens(&self) -> bool {
        let kept = |layer| self.survivors.count(layer, self.prompt_tokens);
        (0..self.shape.layers).any(|layer| kept(layer) < self.prompt_tokens)
    }

    /// Whether a prompt's rows are copied to where they stay, even if none are dropped.
    pub(crate) fn copies_prompt(&self) -> bool {
        self.quantize.is_some() || self.dense_growth().1 != Limit::NONE
    }

    /// The most bytes held while the prompt is computed, layer by layer: the layers before, and one that is
    /// still as it was computed (where it does not stay so) beside what becomes of it.
    pub(crate) fn prompt_bytes(&self) -> u64 {
        let rows = self.prompt_tokens.next_multiple_of(GROUP);
        let dense = chunk_bytes(&self.dense_keys, rows) + chunk_bytes(&self.dense_values, rows);
        let copied = self.copies_prompt() || self.drops_prompt_tokens();
        let dense_layer = if copied { self.shape.attention.kv_heads * dense } else { 0 };
        self.bytes_after(0) + (dense_layer + self.observed_bytes()) as u64
    }

    /// Queries from all of the prompt that are held while a layer computes it.
    pub(crate) fn sampled_queries(&self) -> usize {
        if self.samples_queries() { self.prompt_tokens.min(MAX_SAMPLE) } else { 0 }
    }

    /// Bytes of the queries that are held while a layer computes the prompt.
    pub(crate) fn observed_bytes(&self) -> usize {
        let row = self.shape.attention.query_row() * size_of::<f32>();
        let window = if self.observes_window() { self.window } else { 0 };
        (window + self.sampled_queries()) * row
    }

    /// How dense rows are held once the prompt is compressed.
    pub(crate) fn dense_growth(&self) -> (Growth, Limit) {
        match (self.quantize, &self.survivors) {
            (Some(_), _) => (Growth::Group, Limit::NONE),
            (None, Survivors::Recent(rows)) => {
                (Growth::Share, Limit { rows: *rows, pinned: self.first_kept(*rows).min(rows - 1) })
            }
            (None, _) => (Growth::Share, Limit::NONE),
        }
    }

    /// Bytes the caches of all layers hold once `new_tokens` followed the prompt; what admission counts.
    pub(crate) fn bytes_after(&self, new_tokens: usize) -> u64 {
        let kept = |layer| self.survivors.count(layer, self.prompt_tokens);
        let (mut bytes, mut last) = (0, None);
        for layer in 0..self.shape.layers {
            // Most plans keep as many tokens in every layer.
            let of_layer = match last {
                Some((tokens, of_head)) if tokens == kept(layer) => of_head,
                _ => self.head_bytes(kept(layer), new_tokens),
            };
            last = Some((kept(layer), of_layer));
            bytes += of_layer;
        }
        bytes as u64 * self.shape.attention.kv_heads as u64
    }

    /// Bytes of one KV head of a layer that keeps `kept` tokens of the prompt, once `new_tokens` followed.
    fn head_bytes(&self, kept: usize, new_tokens: usize) -> usize {
        let dense = |rows: usize| chunk_bytes(&self.dense_keys, rows) + chunk_bytes(&self.dense_values, rows);
        match &self.quantize {
            Some(quantize) => {
                let quantized = quantize.quantized(kept - kept.min(self.sinks), self.window);
                let rows = kept - quantized + new_tokens;
                // A full tail gives up a block when the next token comes; see `HeadCache::settle`.
                let tail = rows - rows.min(self.sinks);
                let flushed = tail.saturating_sub(quantize.tail_limit).div_ceil(BLOCK) * BLOCK;
                let blocks = chunks(quantized, flushed, BLOCK, Growth::Block, quantize.limit);
                let blocks = blocks
                    .into_iter()
                    .map(|rows| chunk_bytes(&quantize.keys, rows) + chunk_bytes(&quantize.values, rows));
                dense((rows - flushed).next_multiple_of(GROUP))
                    + blocks.sum::<usize>()
                    + quantize.domain_bytes()
            }
            None => {
                let (growth, limit) = self.dense_growth();
                chunks(kept, new_tokens, GROUP, growth, limit.rows).into_iter().map(dense).sum()
            }
        }
    }
}

fn layout(shape: &KvShape, param: &str, side: Side, format: Format) -> Result<Layout, SettingsError> {
    Layout::new(side, shape.attention.head_dim, format).map_err(|error| match error {
        LayoutError::HeadDim(_) => SettingsError::new("head_dim", error.to_string()),
        LayoutError::Kept { .. } | LayoutError::Widths { .. } => SettingsError::new(param, error.to_string()),
    })
}

fn quantize_plan(
    shape: &KvShape,
    settings: &KvSettings,
    survivors: &Survivors,
) -> Result<QuantizePlan, SettingsError> {
    let head_dim = shape.attention.head_dim;
    let format = |precision: Precision, ratio: f64, fill| {
        let kept = if precision == Precision::F32 { KeptFormat::F32 } else { KeptFormat::Int8 };
        let packed = Packing::new(head_dim, ratio, kept, fill).map(Format::Packed);
        packed.unwrap_or_else(|| whole(precision, head_dim))
    };
    let mut key_format = format(settings.key_precision, settings.key_ratio, Fill::RootMeanSquare);
    let value_format = format(settings.value_precision, settings.value_ratio, Fill::MeanMagnitude);
    let key_domain = match (key_format, settings.key_precision.few_bits()) {
        (Format::Packed(_), _) => KeyDomain::Scaled { centered: settings.center_keys },
        (Format::Planes(_), Some(bits)) if settings.allocation == Allocation::Query => {
            key_format = even_allotment(bits, head_dim).map_or(key_format, Format::Planes);
            KeyDomain::Allotted { bits }
        }
        (Format::Planes(_), _) => KeyDomain::Rotated,
        _ => KeyDomain::Plain,
    };
    let sinks = if shape.attention.sliding_window.is_some() { 0 } else { settings.sinks };
    // Where the number of tokens is bounded, what is not whole blocks is left to the tail.
    let (limit, tail_limit) = match survivors {
        Survivors::Recent(count) => {
            let quantized = count.saturating_sub(settings.min_tokens()) / BLOCK * BLOCK;
            (quantized, count.saturating_sub(sinks + quantized))
        }
        Survivors::All | Survivors::Scored(..) => (usize::MAX / BLOCK * BLOCK, settings.window + BLOCK),
    };
    Ok(QuantizePlan {
        keys: layout(shape, "pruning.key_ratio", Side::Keys, key_format)?,
        values: layout(shape, "pruning.value_ratio", Side::Values, value_format)?,
        key_domain,
        rotates_values: matches!(value_format, Format::Planes(_)),
        limit,
        tail_limit,
    })
}

/// Rows that are not pruned.
fn whole(precision: Precision, head_dim: usize) -> Format {
    match precision {
        Precision::F32 => Format::F32,
        Precision::F16 => Format::F16,
        few => few
            .few_bits()
            .and_then(|bits| Widths::uniform(bits, head_dim))
            .map_or(Format::Int8, Format::Planes),
    }
}
