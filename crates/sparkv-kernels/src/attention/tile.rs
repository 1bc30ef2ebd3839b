//! Attention of a tile of queries over stored rows, with an online softmax.

use std::ops::Range;

use super::buffer::{Buffer, Expanded};
use super::partial::{Partial, softmax_weight};
use super::prefetch::Prefetch;
use super::quantized::ReadQuantized;
use super::queries::Queries;
use super::runs::{KvRun, Sequence};
use super::weigh::Weighing;
use super::{BlockScores, KEY_BLOCK, PANEL, ScoresAt, WeightsAt};
use crate::format::{GROUP, Rows};
use crate::simd::{Isa, LANES, Simd, Task, dispatch, exp, load_all};

/// Queries that share a KV head: the heads of its group, at one or more positions.
#[derive(Debug, Clone, Copy)]
pub struct QueryTile<'a> {
    /// Channels of a row.
    pub head_dim: usize,
    /// (queries, head_dim): query vectors, times the attention scale.
    pub queries: &'a [f32],
    /// (queries, head_dim): the same for keys in the scaled domain. Empty where no run is scaled.
    pub scaled_queries: &'a [f32],
    /// (queries): added to the scores of keys in the scaled domain. Empty for zeros.
    pub scaled_offsets: &'a [f32],
    /// (queries): the stored rows each query sees, counted over all runs.
    pub visible: &'a [Range<usize>],
}

/// Working memory of [`attend_tile`], to be reused from tile to tile.
#[derive(Debug, Default)]
pub struct TileScratch {
    queries: Queries,
    scaled_queries: Queries,
    /// (queries filled up to panels): scores of a block's rows, then weights.
    scores: Buffer<BlockScores>,
    /// (queries filled up to panels, ceil(head_dim / 16)): weighted sums so far.
    sums: Buffer<[f32; LANES]>,
    expanded: Expanded,
}

/// Attention of every query of `tile` over those rows of `part` that it sees. `part` begins with a
/// [`KEY_BLOCK`]. The result of a query does not depend on the other queries of the tile; over dense rows, nor on how
/// they are divided into runs. (Over integers, weights are rounded to a part of the largest in a block and run.)
///
/// # Panics
/// If the lengths of the slices do not fit one another.
pub fn attend_tile(
    tile: &QueryTile<'_>,
    runs: &[KvRun<'_>],
    part: Range<usize>,
    scratch: &mut TileScratch,
) -> Partial {
    attend_tile_with(Isa::best(), tile, runs, part, scratch)
}

/// [`attend_tile`] with the instructions of `isa`.
///
/// # Panics
/// Likewise.
pub fn attend_tile_with(
    isa: Isa,
    tile: &QueryTile<'_>,
    runs: &[KvRun<'_>],
    part: Range<usize>,
    scratch: &mut TileScratch,
) -> Partial {
    let (queries, head_dim) = (tile.visible.len(), tile.head_dim);
    assert_eq!(tile.queries.len(), queries * head_dim, "shape of a tile");
    assert!(part.start.is_multiple_of(KEY_BLOCK), "a part begins with a block");
    let scaled = runs.iter().any(|run| run.scaled);
    assert!(!scaled || tile.scaled_queries.len() == tile.queries.len(), "scaled queries for scaled runs");
    for run in runs {
        assert_eq!(run.keys.layout().head_dim(), head_dim, "channels of keys");
        assert_eq!(run.values.layout().head_dim(), head_dim, "channels of values");
        scratch.expanded.reserve(run.values.layout());
    }
    let with_codes =
        |scaled: bool| runs.iter().any(|run| run.scaled == scaled && run.keys.layout().is_quantized());
    scratch.queries.set(isa, tile.queries, head_dim, with_codes(false));
    scratch.scaled_queries.set(
        isa,
        if scaled { tile.scaled_queries } else { &[] },
        head_dim,
        with_codes(true),
    );
    let padded = queries.next_multiple_of(PANEL);
    scratch.scores.resize(padded);
    scratch.scores.as_mut_slice().fill([[0.0; GROUP]; KEY_BLOCK / GROUP]);
    scratch.sums.resize(padded * head_dim.div_ceil(LANES));
    scratch.sums.as_mut_slice().fill([0.0; LANES]);

    let mut partial = Partial::new(queries, head_dim);
    let runs = Sequence::new(runs);
    AttendTile { tile, runs: &runs, part, scratch, partial: &mut partial }.run(isa);
    let vectors = head_dim.div_ceil(LANES);
    for (sums, out) in
        scratch.sums.as_slice().chunks_exact(vectors).zip(partial.sums.chunks_exact_mut(head_dim))
    {
        out.copy_from_slice(&sums.as_flattened()[..head_dim]);
    }
    partial
}

/// The rows of a tile, block by block.
struct AttendTile<'t, 'a> {
    tile: &'t QueryTile<'t>,
    runs: &'t Sequence<'t, 'a>,
    part: Range<usize>,
    scratch: &'t mut TileScratch,
    partial: &'t mut Partial,
}

/// A step of the work on a block; compiled for each instruction set by itself, which compilers do better.
struct Step<'w, 't, 'a, const STEP: u8> {
    work: &'w mut AttendTile<'t, 'a>,
    block: &'w Range<usize>,
}

const SCORE: u8 = 0;
const SOFTMAX: u8 = 1;
const WEIGH: u8 = 2;

impl<S: ReadQuantized, const STEP: u8> Task<S> for Step<'_, '_, '_, STEP> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        match STEP {
            SCORE => self.work.score(simd, self.block),
            SOFTMAX => self.work.softmax(simd, self.block),
            _ => self.work.weigh(simd, self.block),
        }
    }
}

impl AttendTile<'_, '_> {
    fn run(&mut self, isa: Isa) {
        let visible = || self.tile.visible.iter().filter(|range| !range.is_empty());
        let first = visible().map(|range| range.start).min().unwrap_or(0).max(self.part.start);
        let last =
            visible().map(|range| range.end).max().unwrap_or(0).min(self.part.end).min(self.runs.len());
        for start in (first / KEY_BLOCK * KEY_BLOCK..last).step_by(KEY_BLOCK) {
            let block = &(start..last.min(start + KEY_BLOCK));
            dispatch(isa, Step::<SCORE> { work: self, block });
            dispatch(isa, Step::<SOFTMAX> { work: self, block });
            dispatch(isa, Step::<WEIGH> { work: self, block });
        }
    }

    /// Scores of all queries for the rows of `block`, visible or not. Asks for the block's values meanwhile.
    #[inline(always)]
    fn score<S: ReadQuantized>(&mut self, simd: S, block: &Range<usize>) {
        let TileScratch { queries, scaled_queries, scores, expanded, .. } = &mut *self.scratch;
        let scores = scores.as_mut_slice();
        for (run, rows, group) in self.runs.parts(block) {
            let queries = if run.scaled { &*scaled_queries } else { &*queries };
            let prefetch = Prefetch::new(&run.values, rows.start);
            let at = ScoresAt { scores: &mut *scores, group };
            queries.score(simd, &run.keys.slice(rows.clone()), prefetch, expanded, at);
            if run.scaled {
                for (scores, offset) in scores.iter_mut().zip(self.tile.scaled_offsets) {
                    scores[group..].iter_mut().flatten().take(rows.len()).for_each(|score| *score += offset);
                }
            }
        }
    }

    /// Turns scores into weights relative to the new maximum, 0 where a query does not see the row, and
    /// rescales what was summed under the old one.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, simd: S, block: &Range<usize>) {
        let vectors = self.tile.head_dim.div_ceil(LANES);
        let rows = self
            .scratch
            .scores
            .as_mut_slice()
            .iter_mut()
            .zip(self.scratch.sums.as_mut_slice().chunks_exact_mut(vectors));
        let state = self.partial.max.iter_mut().zip(&mut self.partial.total);
        for (((scores, sums), (max, total)), visible) in rows.zip(state).zip(self.tile.visible) {
            let start = visible.start.clamp(block.start, block.end) - block.start;
            let end = visible.end.clamp(block.start, block.end) - block.start;
            if start >= end {
                scores.as_flattened_mut().fill(0.0);
                continue;
            }
            let whole = start == 0 && end == KEY_BLOCK;
            if !whole {
                scores.as_flattened_mut()[..start].fill(f32::NEG_INFINITY);
                scores.as_flattened_mut()[end..].fill(f32::NEG_INFINITY);
            }
            let groups: [S::F; KEY_BLOCK / GROUP] = load_all(simd, scores);
            let mut largest = groups[0];
            for group in groups {
                largest = simd.max(largest, group);
            }
            let largest = simd.max_lanes(largest);
            // A score that is NaN must not hide behind the others: it makes the total NaN.
            if largest > *max {
                let rescale = softmax_weight(*max, largest);
                sums.iter_mut().flatten().for_each(|channel| *channel *= rescale);
                *total *= rescale;
                *max = largest;
            }
            let negative_max = simd.splat(-*max);
            let mut sum = simd.splat(0.0);
            for (group, weights) in groups.into_iter().zip(scores.iter_mut()) {
                let weight = exp(simd, simd.add(group, negative_max));
                simd.store(weight, weights);
                sum = simd.add(sum, weight);
            }
            if whole {
                *total += simd.sum_lanes(sum);
                continue;
            }
            scores.as_flattened_mut()[..start].fill(0.0);
            scores.as_flattened_mut()[end..].fill(0.0);
            let mut sum = simd.splat(0.0);
            for weights in scores.iter() {
                sum = simd.add(sum, simd.load(weights));
            }
            *total += simd.sum_lanes(sum);
        }
    }

    /// Adds the block's values by their weights. Asks for the next block's keys meanwhile.
    #[inline(always)]
    fn weigh<S: ReadQuantized>(&mut self, simd: S, block: &Range<usize>) {
        let TileScratch { scores, sums, expanded, .. } = &mut *self.scratch;
        for (run, rows, group) in self.runs.parts(block) {
            let weighing = Weighing {
                values: &run.values.slice(rows.clone()),
                prefetch: Prefetch::new(&run.keys, rows.start + KEY_BLOCK),
                expanded,
                at: WeightsAt { weights: scores.as_slice(), group },
                sums: sums.as_mut_slice(),
            };
            weighing.add(simd);
        }
    }
}

/// Scores of `queries` (n, head_dim) for all `rows`: (n, rows.len()).
///
/// # Panics
/// If the lengths do not fit one another.
pub fn score_rows(queries: &[f32], rows: &Rows<'_>, scores: &mut [f32], scratch: &mut TileScratch) {
    let head_dim = rows.layout().head_dim();
    let count = queries.len() / head_dim;
    assert_eq!((queries.len(), scores.len()), (count * head_dim, count * rows.len()), "shape of scores");
    scratch.queries.set(Isa::best(), queries, head_dim, rows.layout().is_quantized());
    scratch.expanded.reserve(rows.layout());
    scratch.scores.resize(count.next_multiple_of(PANEL));
    dispatch(Isa::best(), ScoreRows { rows, scores, scratch });
}

struct ScoreRows<'t, 'a> {
    rows: &'t Rows<'a>,
    scores: &'t mut [f32],
    scratch: &'t mut TileScratch,
}

impl<S: ReadQuantized> Task<S> for ScoreRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let TileScratch { queries, scores: by_block, expanded, .. } = self.scratch;
        let by_block = by_block.as_mut_slice();
        for (index, block) in self.rows.chunks(KEY_BLOCK).enumerate() {
            let at = ScoresAt { scores: &mut *by_block, group: 0 };
            queries.score(simd, &block, Prefetch::NONE, expanded, at);
            for (scores, by_block) in self.scores.chunks_exact_mut(self.rows.len()).zip(&*by_block) {
                scores[index * KEY_BLOCK..][..block.len()]
                    .copy_from_slice(&by_block.as_flattened()[..block.len()]);
            }
        }
    }
}
