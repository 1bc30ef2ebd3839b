//! Attention over stored rows.
//!
//! [`attend_tile`] goes over the rows block by block: scores of all queries (`score`), the weights of an online
//! softmax (`tile`), and values by their weights (`weigh`). How quantized rows are read depends on the instruction
//! set (`quantized`).

mod buffer;
mod partial;
mod prefetch;
mod quantized;
mod queries;
mod runs;
mod score;
#[cfg(test)]
mod tests;
mod tile;
mod weigh;

pub use self::partial::{Partial, softmax_weight};
pub use self::runs::KvRun;
pub use self::tile::{QueryTile, TileScratch, attend_tile, attend_tile_with, score_rows};
use crate::format::GROUP;

/// Stored rows are scored in blocks of this many, counted from the first stored row. Since block
/// borders do not depend on where runs begin, the same dense rows give the same sums in whatever runs they are.
pub const KEY_BLOCK: usize = 128;

/// Queries that are computed together.
const PANEL: usize = 4;

/// Scores or weights of one query for the rows of a block, by groups.
type BlockScores = [[f32; GROUP]; KEY_BLOCK / GROUP];

/// Scores for rows that begin with a group of a block.
struct ScoresAt<'a> {
    /// (queries filled up to panels)
    scores: &'a mut [BlockScores],
    group: usize,
}

/// Weights of rows that begin with a group of a block.
#[derive(Clone, Copy)]
struct WeightsAt<'a> {
    /// (queries filled up to panels)
    weights: &'a [BlockScores],
    group: usize,
}
