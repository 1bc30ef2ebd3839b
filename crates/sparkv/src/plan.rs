//! What settings mean for one model and one prompt: layouts, counts, and the bytes that follow from them.

use sparkv_kernels::{Fill, KeptFormat, LayoutError, PackedLayout, RowFormat, RowLayout};

use crate::attention::AttentionConfig;
use crate::rows::{Growth, TAIL_STEP};
use crate::settings::{Eviction, KvSettings, PACK_BLOCK, Precision, QueryStatistic, SettingsError};

/// The shape of a model's KV cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Attention of each layer.
    pub attention: AttentionConfig,
}

impl KvShape {
    /// Bytes of a dense f16 cache of `tokens` tokens.
    pub fn dense_bytes(&self, tokens: usize) -> u64 {
        (self.layers * self.attention.kv_row() * 2 * 2) as u64 * tokens as u64
    }
}

/// Which of a prompt's tokens stay, in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Survivors {
    /// All of them.
    All,
    /// The first `sinks` and the last ones, this many together.
    Recent(usize),
    /// Sinks, window and the tokens with the largest attention mass, this many together.
    HeavyHitters(usize),
}

impl Survivors {
    /// Tokens kept of a prompt of `prompt_tokens`.
    pub(crate) fn count(self, prompt_tokens: usize) -> usize {
        match self {
            Survivors::All => prompt_tokens,
            Survivors::Recent(count) | Survivors::HeavyHitters(count) => count.min(prompt_tokens),
        }
    }
}

/// How the caches of one sequence store what they see.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CachePlan {
    pub(crate) shape: KvShape,
    /// Keys and values as the prompt computes them, and of sinks and tail: f16, or f32 if asked.
    pub(crate) dense: RowLayout,
    /// Keys that have left the window.
    pub(crate) keys: RowLayout,
    /// Values that have left the window.
    pub(crate) values: RowLayout,
    pub(crate) sinks: usize,
    pub(crate) window: usize,
    pub(crate) survivors: Survivors,
    pub(crate) statistic: QueryStatistic,
    /// Whether sinks and recent tokens are held apart, dense; otherwise there is one store for all.
    pub(crate) has_tail: bool,
    /// Tokens held besides sinks and tail; more overwrite the oldest.
    pub(crate) prefix_limit: usize,
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
        let head_dim = shape.attention.head_dim;
        let (dense, kept) = match settings.precision {
            Precision::F32 => (RowFormat::F32, KeptFormat::F32),
            Precision::F16 => (RowFormat::F16, KeptFormat::F16),
            Precision::Int8 => (RowFormat::F16, KeptFormat::Int8),
        };
        let layout = |param: &str, format| {
            RowLayout::new(head_dim, format).map_err(|error| match error {
                LayoutError::HeadDim(_) => SettingsError::new("head_dim", error.to_string()),
                LayoutError::Kept { .. } => SettingsError::new(param, error.to_string()),
            })
        };
        let packed = |ratio, fill| PackedLayout::format_for(head_dim, ratio, kept, fill);
        let min_tokens = settings.min_tokens();
        let survivors = match settings.eviction {
            Eviction::None => Survivors::All,
            Eviction::Streaming(keep) => Survivors::Recent(keep.tokens(prompt_tokens, min_tokens)),
            Eviction::SnapKv(keep) => Survivors::HeavyHitters(keep.tokens(prompt_tokens, min_tokens)),
        };
        if shape.attention.sliding_window.is_some() && survivors != Survivors::All {
            let reason = "this model attends to a sliding window by itself; eviction on top is not supported";
            return Err(SettingsError::new("eviction.policy", reason));
        }
        let prefix_limit = match survivors {
            Survivors::Recent(count) => count.saturating_sub(min_tokens),
            Survivors::All | Survivors::HeavyHitters(_) => usize::MAX,
        };
        Ok(Self {
            shape,
            dense: layout("precision", dense)?,
            keys: layout("pruning.key_ratio", packed(settings.key_ratio, Fill::RootMeanSquare))?,
            values: layout("pruning.value_ratio", packed(settings.value_ratio, Fill::MeanMagnitude))?,
            sinks: settings.sinks,
            window: settings.window,
            survivors,
            statistic: settings.query_statistic,
            has_tail: settings.has_tail(),
            prefix_limit,
            prompt_tokens,
        })
    }

    /// Whether keys are stored in the scaled domain.
    pub(crate) fn scales_keys(&self) -> bool {
        matches!(self.keys.format(), RowFormat::Packed(_))
    }

    /// Whether the prompt's last queries are needed.
    pub(crate) fn observes(&self) -> bool {
        self.scales_keys() || matches!(self.survivors, Survivors::HeavyHitters(_))
    }

    /// Tokens the tail holds before its first block is packed.
    pub(crate) fn tail_limit(&self) -> usize {
        self.window + PACK_BLOCK
    }

    /// How the prefix grows after the prompt: by what leaves the tail, or token by token.
    pub(crate) fn prefix_growth(&self) -> Growth {
        if self.has_tail { Growth::Block } else { Growth::Share }
    }

    /// Bytes the caches of all layers hold once `new_tokens` followed the prompt; what admission counts.
    pub(crate) fn bytes_after(&self, new_tokens: usize) -> u64 {
        let kept = self.survivors.count(self.prompt_tokens);
        let dense_row = 2 * self.dense.row_bytes();
        let head_bytes = if self.has_tail {
            let sinks = kept.min(self.sinks);
            let in_tail = (kept - sinks).min(self.window);
            let packed = (kept - sinks - in_tail).min(self.prefix_limit);
            // See `HeadCache::settle`: a block leaves the full tail when the next token comes, first to sinks
            // that are not filled yet.
            let flushed = (in_tail + new_tokens).saturating_sub(self.window + 1) / PACK_BLOCK * PACK_BLOCK;
            let late_sinks = flushed.min(self.sinks - sinks);
            let packed_later = flushed - late_sinks;
            let room = self.prefix_limit - packed;
            let blocks = packed_later.next_multiple_of(PACK_BLOCK).min(room);
            let sink_rows = (sinks + late_sinks.next_multiple_of(TAIL_STEP)).min(self.sinks);
            let tail_rows = (in_tail + new_tokens).next_multiple_of(TAIL_STEP) - flushed;
            let prefix_rows = packed + blocks;
            let scaling =
                if self.scales_keys() { size_of::<f32>() * self.shape.attention.head_dim } else { 0 };
            (sink_rows + tail_rows) * dense_row
                + prefix_rows * (self.keys.row_bytes() + self.values.row_bytes())
                + scaling
        } else {
            let mut rows = kept;
            while rows < kept + new_tokens {
                rows += self.prefix_growth().rows(rows);
            }
            rows * dense_row
        };
        (self.shape.layers * self.shape.attention.kv_heads) as u64 * head_bytes as u64
    }
}
