//! Attention of a tile of queries over stored rows, with an online softmax.

use std::ops::Range;

use crate::row::RowLayout;
use crate::vector::{axpy, dot, softmax_probability};

/// Stored rows are decoded and scored in blocks of this many, counted from the first stored row. Since block
/// borders do not depend on where runs begin, the same rows give the same sums however they are stored.
pub const KEY_BLOCK: usize = 64;

/// Contiguous rows of one layout.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    layout: RowLayout,
    bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Rows of `layout` in `bytes`; a partial row at the end does not count.
    pub fn new(layout: RowLayout, bytes: &'a [u8]) -> Self {
        Self { layout, bytes }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.layout.row_bytes()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stored form of each row.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.layout.row_bytes())
    }

    /// Decodes rows `range` into `out` (range.len(), head_dim).
    fn decode(&self, range: Range<usize>, out: &mut [f32]) {
        let row_bytes = self.layout.row_bytes();
        let bytes = &self.bytes[range.start * row_bytes..range.end * row_bytes];
        let rows = out.chunks_exact_mut(self.layout.head_dim());
        for (bytes, row) in bytes.chunks_exact(row_bytes).zip(rows) {
            self.layout.decode(bytes, row);
        }
    }
}

/// A run of tokens stored alike: as many keys as values.
#[derive(Debug, Clone, Copy)]
pub struct KvRun<'a> {
    /// Keys of the run.
    pub keys: Rows<'a>,
    /// Values of the run.
    pub values: Rows<'a>,
    /// Whether the keys are in the scaled domain, to be met by [`QueryTile::scaled_queries`].
    pub scaled: bool,
}

/// Queries that share a KV head: the heads of its group, at one or more positions.
#[derive(Debug, Clone, Copy)]
pub struct QueryTile<'a> {
    /// Channels of a row.
    pub head_dim: usize,
    /// (queries, head_dim): query vectors, times the attention scale.
    pub queries: &'a [f32],
    /// (queries, head_dim): the same for keys in the scaled domain. Empty where no run is scaled.
    pub scaled_queries: &'a [f32],
    /// (queries): the stored rows each query sees, counted over all runs.
    pub visible: &'a [Range<usize>],
}

/// Working memory of [`attend_tile`], to be reused from tile to tile.
#[derive(Debug, Default)]
pub struct TileScratch {
    /// (KEY_BLOCK, head_dim): the block's keys, then its values.
    rows: Vec<f32>,
    /// (queries, KEY_BLOCK): scores, then probabilities.
    scores: Vec<f32>,
    /// (queries): the largest score so far.
    max: Vec<f32>,
    /// (queries): the sum of exp(score - max) so far.
    sum: Vec<f32>,
}

/// Softmax attention of every query of `tile` over the rows it sees, into `out` (queries, head_dim). A query
/// that sees nothing gets zeros. The result of a query does not depend on the other queries of the tile.
///
/// # Panics
/// If the lengths of the slices do not fit one another.
pub fn attend_tile(tile: &QueryTile<'_>, runs: &[KvRun<'_>], scratch: &mut TileScratch, out: &mut [f32]) {
    let (queries, head_dim) = (tile.visible.len(), tile.head_dim);
    assert_eq!((tile.queries.len(), out.len()), (queries * head_dim, queries * head_dim), "shape of a tile");
    assert!(
        tile.scaled_queries.len() == tile.queries.len() || !runs.iter().any(|run| run.scaled),
        "scaled queries for scaled runs"
    );
    scratch.rows.resize(KEY_BLOCK * head_dim, 0.0);
    scratch.scores.resize(queries * KEY_BLOCK, 0.0);
    scratch.max.clear();
    scratch.max.resize(queries, f32::NEG_INFINITY);
    scratch.sum.clear();
    scratch.sum.resize(queries, 0.0);
    out.fill(0.0);

    let first = tile.visible.iter().map(|range| range.start).min().unwrap_or(0);
    let last = tile.visible.iter().map(|range| range.end).max().unwrap_or(0);
    let runs = &Sequence::new(runs);
    let stored = runs.len().min(last);
    for start in (first / KEY_BLOCK * KEY_BLOCK..stored).step_by(KEY_BLOCK) {
        let block = start..stored.min(start + KEY_BLOCK);
        score_block(tile, runs, &block, scratch);
        softmax_block(tile, &block, scratch, out);
        add_values(tile, runs, &block, scratch, out);
    }
    for (out, sum) in out.chunks_exact_mut(head_dim).zip(&scratch.sum) {
        if *sum > 0.0 {
            out.iter_mut().for_each(|channel| *channel /= sum);
        }
    }
}

/// Runs one after the other, and where each ends.
struct Sequence<'r, 'a> {
    runs: &'r [KvRun<'a>],
    /// Rows of a run and all before it.
    ends: Vec<usize>,
}

impl<'r, 'a> Sequence<'r, 'a> {
    fn new(runs: &'r [KvRun<'a>]) -> Self {
        let ends = runs
            .iter()
            .scan(0, |end, run| {
                *end += run.keys.len();
                Some(*end)
            })
            .collect();
        Self { runs, ends }
    }

    /// Rows of all runs.
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The parts of `block` that lie in one run: the run, its rows, and where they begin in the block.
    fn parts(&self, block: &Range<usize>) -> impl Iterator<Item = (&'r KvRun<'a>, Range<usize>, usize)> {
        let block = block.clone();
        let end_of_block = block.end;
        let first = self.ends.partition_point(|end| *end <= block.start);
        let runs = self.runs[first..].iter().zip(&self.ends[first..]);
        runs.map(|(run, end)| (run, end - run.keys.len()..*end))
            .take_while(move |(_, span)| span.start < end_of_block)
            .filter_map(move |(run, span)| {
                let (start, end) = (span.start.max(block.start), span.end.min(block.end));
                (start < end).then(|| (run, start - span.start..end - span.start, start - block.start))
            })
    }
}

/// Scores of all queries for the rows of `block`, visible or not.
fn score_block(
    tile: &QueryTile<'_>,
    runs: &Sequence<'_, '_>,
    block: &Range<usize>,
    scratch: &mut TileScratch,
) {
    let head_dim = tile.head_dim;
    for (run, rows, offset) in runs.parts(block) {
        let keys = &mut scratch.rows[..rows.len() * head_dim];
        run.keys.decode(rows, keys);
        let queries = if run.scaled { tile.scaled_queries } else { tile.queries };
        for (query, scores) in queries.chunks_exact(head_dim).zip(scratch.scores.chunks_exact_mut(KEY_BLOCK))
        {
            for (score, key) in scores[offset..].iter_mut().zip(keys.chunks_exact(head_dim)) {
                *score = dot(query, key);
            }
        }
    }
}

/// Turns scores into probabilities relative to the new maximum, 0 where a query does not see the row, and
/// rescales what was summed under the old one.
fn softmax_block(tile: &QueryTile<'_>, block: &Range<usize>, scratch: &mut TileScratch, out: &mut [f32]) {
    let rows = scratch.scores.chunks_exact_mut(KEY_BLOCK).zip(out.chunks_exact_mut(tile.head_dim));
    let state = scratch.max.iter_mut().zip(&mut scratch.sum);
    for (((scores, out), (max, sum)), visible) in rows.zip(state).zip(tile.visible) {
        let scores = &mut scores[..block.len()];
        let start = visible.start.clamp(block.start, block.end) - block.start;
        let end = visible.end.clamp(block.start, block.end) - block.start;
        if start >= end {
            scores.fill(0.0);
            continue;
        }
        scores[..start].fill(0.0);
        scores[end..].fill(0.0);
        let scores = &mut scores[start..end];
        let block_max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let new_max = max.max(block_max);
        let rescale = softmax_probability(*max, new_max);
        if rescale != 1.0 {
            out.iter_mut().for_each(|channel| *channel *= rescale);
        }
        for score in scores.iter_mut() {
            *score = softmax_probability(*score, new_max);
        }
        *sum = *sum * rescale + scores.iter().sum::<f32>();
        *max = new_max;
    }
}

/// Adds the block's values, weighted by the probabilities in `scratch.scores`.
fn add_values(
    tile: &QueryTile<'_>,
    runs: &Sequence<'_, '_>,
    block: &Range<usize>,
    scratch: &mut TileScratch,
    out: &mut [f32],
) {
    let head_dim = tile.head_dim;
    for (run, rows, offset) in runs.parts(block) {
        let values = &mut scratch.rows[..rows.len() * head_dim];
        run.values.decode(rows, values);
        let probabilities = scratch.scores.chunks_exact(KEY_BLOCK);
        for (probabilities, out) in probabilities.zip(out.chunks_exact_mut(head_dim)) {
            for (probability, value) in probabilities[offset..].iter().zip(values.chunks_exact(head_dim)) {
                if *probability != 0.0 {
                    axpy(out, *probability, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{Fill, KeptFormat, PackedLayout};
    use crate::row::RowFormat;
    use proptest::prelude::*;

    /// Attention in f64 over rows decoded one by one.
    fn reference(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], visible: Range<usize>) -> Vec<f64> {
        let scores: Vec<f64> = keys[visible.clone()]
            .iter()
            .map(|key| key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum())
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; query.len()];
        for (weight, value) in weights.iter().zip(&values[visible]) {
            out.iter_mut().zip(value).for_each(|(out, v)| *out += weight / sum * f64::from(*v));
        }
        out
    }

    struct Stored {
        layout: RowLayout,
        bytes: Vec<u8>,
        decoded: Vec<Vec<f32>>,
    }

    fn store(layout: RowLayout, rows: &[Vec<f32>]) -> Stored {
        let mut stored = Stored { layout, bytes: Vec::new(), decoded: Vec::new() };
        for row in rows {
            let mut bytes = vec![0; layout.row_bytes()];
            let mut decoded = vec![0.0; row.len()];
            layout.encode(row, &mut bytes);
            layout.decode(&bytes, &mut decoded);
            stored.bytes.extend(bytes);
            stored.decoded.push(decoded);
        }
        stored
    }

    fn layouts(head_dim: usize) -> Vec<RowLayout> {
        let mut formats = vec![RowFormat::F32, RowFormat::F16, RowFormat::Int8];
        for values in [KeptFormat::F32, KeptFormat::F16, KeptFormat::Int8] {
            formats.push(PackedLayout::format_for(head_dim, 0.75, values, Fill::RootMeanSquare));
        }
        formats.into_iter().map(|format| RowLayout::new(head_dim, format).unwrap()).collect()
    }

    fn rows(count: usize, head_dim: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        prop::collection::vec(prop::collection::vec(-2f32..2.0, head_dim), count)
    }

    /// (head_dim, keys, values, queries, lengths of the runs, visible ranges)
    type Case = (usize, Vec<Vec<f32>>, Vec<Vec<f32>>, Vec<Vec<f32>>, usize, Vec<Range<usize>>);

    fn cases() -> impl Strategy<Value = Case> {
        let head_dims = prop::sample::select(vec![8usize, 64, 80, 96, 128, 256]);
        (head_dims, 1usize..200, 1usize..9).prop_flat_map(|(head_dim, tokens, queries)| {
            let visible = (0..tokens, 0..=tokens).prop_map(|(a, b)| a.min(b)..a.max(b));
            (
                Just(head_dim),
                rows(tokens, head_dim),
                rows(tokens, head_dim),
                rows(queries, head_dim),
                0..=tokens,
                prop::collection::vec(visible, queries),
            )
        })
    }

    fn run_tile(case: &Case, key_layout: RowLayout, value_layout: RowLayout) -> (Vec<f32>, Vec<Vec<f64>>) {
        let (head_dim, keys, values, queries, split, visible) = case;
        let dense = RowLayout::new(*head_dim, RowFormat::F32).unwrap();
        // With an empty run between two others.
        let keys = [store(key_layout, &keys[..*split]), store(dense, &[]), store(dense, &keys[*split..])];
        let values =
            [store(value_layout, &values[..*split]), store(dense, &[]), store(dense, &values[*split..])];
        let runs: Vec<KvRun<'_>> = keys
            .iter()
            .zip(&values)
            .map(|(k, v)| KvRun {
                keys: Rows::new(k.layout, &k.bytes),
                values: Rows::new(v.layout, &v.bytes),
                scaled: false,
            })
            .collect();
        let queries = queries.concat();
        let tile = QueryTile { head_dim: *head_dim, queries: &queries, scaled_queries: &[], visible };
        let mut out = vec![f32::NAN; queries.len()];
        attend_tile(&tile, &runs, &mut TileScratch::default(), &mut out);
        let decoded = |stored: [Stored; 3]| stored.map(|s| s.decoded).concat();
        let (keys, values) = (decoded(keys), decoded(values));
        let expected = queries
            .chunks(*head_dim)
            .zip(visible)
            .map(|(query, visible)| reference(query, &keys, &values, visible.clone()))
            .collect();
        (out, expected)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn attention_over_stored_rows_equals_f64_over_decoded_ones(case in cases()) {
            for key_layout in layouts(case.0) {
                for value_layout in layouts(case.0) {
                    let (out, expected) = run_tile(&case, key_layout, value_layout);
                    for (out, expected) in out.iter().zip(expected.concat()) {
                        prop_assert!((f64::from(*out) - expected).abs() < 2e-5, "{out} for {expected}");
                    }
                }
            }
        }

        /// Bit for bit: neither the other queries nor the borders of runs matter.
        #[test]
        fn a_query_alone_over_one_run_gives_the_same(case in cases()) {
            let (head_dim, keys, values, queries, _, visible) = &case;
            let dense = RowLayout::new(*head_dim, RowFormat::F32).unwrap();
            let (together, _) = run_tile(&case, dense, dense);
            for (index, (query, visible)) in queries.iter().zip(visible).enumerate() {
                let alone = (
                    *head_dim, keys.clone(), values.clone(), vec![query.clone()], keys.len(), vec![visible.clone()],
                );
                let (alone, _) = run_tile(&alone, dense, dense);
                prop_assert_eq!(&alone[..], &together[index * head_dim..][..*head_dim]);
            }
        }
    }

    #[test]
    fn scaled_runs_meet_scaled_queries() {
        let layout = RowLayout::new(8, RowFormat::F32).unwrap();
        let key = store(layout, &[vec![2.0; 8], vec![0.0; 8]]);
        let value = store(layout, &[vec![1.0; 8], vec![0.0; 8]]);
        let run = KvRun {
            keys: Rows::new(layout, &key.bytes),
            values: Rows::new(layout, &value.bytes),
            scaled: true,
        };
        let visible = std::slice::from_ref(&(0..2));
        let tile = QueryTile { head_dim: 8, queries: &[9.0; 8], scaled_queries: &[0.5; 8], visible };
        let mut out = [0.0; 8];
        attend_tile(&tile, &[run], &mut TileScratch::default(), &mut out);
        let expected = 8f32.exp() / (8f32.exp() + 1.0);
        assert!(out.iter().all(|channel| (channel - expected).abs() < 1e-6));
    }

    #[test]
    fn huge_scores_do_not_overflow() {
        let layout = RowLayout::new(8, RowFormat::F32).unwrap();
        let keys = store(layout, &(0..100).map(|i| vec![i as f32 * 1e3; 8]).collect::<Vec<_>>());
        let values = store(layout, &(0..100).map(|i| vec![i as f32; 8]).collect::<Vec<_>>());
        let run = KvRun {
            keys: Rows::new(layout, &keys.bytes),
            values: Rows::new(layout, &values.bytes),
            scaled: false,
        };
        let visible = std::slice::from_ref(&(0..100));
        let tile = QueryTile { head_dim: 8, queries: &[1e3; 8], scaled_queries: &[], visible };
        let mut out = [0.0; 8];
        attend_tile(&tile, &[run], &mut TileScratch::default(), &mut out);
        assert_eq!(out, [99.0; 8]);
    }
}
