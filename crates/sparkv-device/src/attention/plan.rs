//! Which parts of attention are computed by which groups: what `attend` and `merge` are told.
//!
//! A span's quantized rows and its dense ones are parts of it, each in splits of [`SPLIT`] rows, counted from the part's first. Where
//! there are few tiles of queries, each split of each tile is a group's work, and has a place for its result (a slot); where there
//! are many, a group goes over all splits of its tile, one after the other, merges them by itself, and all have one slot. Either
//! way the sums are the same.

use sparkv_kernels::Format;

use super::{ATTEND, ATTEND_PROMPT, AttentionShape, AttentionSpan, StoredRows, constants, count};
use crate::error::DeviceError;
use crate::kernel::{Constants, MATRIX_ROWS, MAX_PROMPT_HEAD_DIM, MAX_QUERIES};
use crate::tables::{KeyDomain, Tables};

/// Stored rows of a split; as in `kernels/attention_tile.inc`.
const SPLIT: usize = 2048;

/// Tiles (times KV heads) of a part from which on each has its splits one after the other: enough for all of a GPU.
const MANY_TILES: usize = 512;

/// Queries of a tile times channels, at most, over dense rows; half of that where a side is quantized. More does not fit a lane's
/// registers.
const TILE_CHANNELS: usize = 2048;

/// The same with matrix units.
const PROMPT_TILE_CHANNELS: usize = 4096;

/// Words before the parts' in what `attend` is told, and before the spans' for `merge`.
const HEADER: usize = 4;

/// A part's words in what `attend` is told.
const PART: usize = 28;

/// A span's words in what `merge` is told.
const MERGED: usize = 24;

/// Words of a partial result beside its sums.
const PARTIAL_HEADER: usize = 8;

/// No tables.
const PLAIN: Tables = Tables { line: 0, keys: KeyDomain::Plain, values_rotated: false };

/// What is launched.
#[derive(Debug)]
pub(super) struct Plans {
    /// One launch for each kernel, pair of formats and size of tiles.
    pub(super) attend: Vec<Attend>,
    pub(super) merge: Vec<u32>,
    pub(super) merge_groups: usize,
    pub(super) merge_constants: Constants,
    pub(super) scratch_bytes: usize,
}

/// A launch of `attend` or `attend_prompt`.
#[derive(Debug)]
pub(super) struct Attend {
    pub(super) kernel: &'static str,
    pub(super) constants: Constants,
    pub(super) groups: usize,
    pub(super) words: Vec<u32>,
}

/// Parts that are computed alike.
struct Parts {
    kernel: &'static str,
    constants: Constants,
    groups: usize,
    parts: Vec<[u32; PART]>,
    runs: Vec<u32>,
}

/// Where the partial results of a part are: first split, splits, slots, first partial result.
type Slots = [u32; 4];

struct Builder<'a> {
    shape: &'a AttentionShape,
    has_matrix_units: bool,
    launches: Vec<Parts>,
    partials: usize,
}

impl Plans {
    pub(super) fn new(
        shape: &AttentionShape,
        spans: &[AttentionSpan<'_>],
        has_matrix_units: bool,
    ) -> Result<Self, DeviceError> {
        let mut builder = Builder { shape, has_matrix_units, launches: Vec::new(), partials: 0 };
        let (mut merged, mut groups) = (Vec::new(), 0usize);
        for span in spans.iter().filter(|span| span.rows > 0) {
            let quantized_rows = span.quantized.map_or(0, |(rows, _)| count(rows.runs));
            let tables = span.quantized.map_or(PLAIN, |(_, tables)| tables);
            let quantized = match &span.quantized {
                Some((rows, _)) => builder.part(span, rows, Some(&tables), 0)?,
                None => [0; 4],
            };
            let dense = builder.part(span, &span.dense, None, quantized_rows)?;
            let mut words = [0; MERGED];
            let numbers = [groups, span.out, span.rows, span.end, window(span)];
            words[..5].copy_from_slice(&all_fit(numbers)?);
            words[5..7].copy_from_slice(&all_fit([quantized_rows, count(span.dense.runs)])?);
            words[7..11].copy_from_slice(&quantized);
            words[11..15].copy_from_slice(&dense);
            words[15..23].copy_from_slice(&tables.words(shape.head_dim));
            merged.push(words);
            groups = groups.saturating_add(span.rows.saturating_mul(shape.query_heads));
        }
        let header = [merged.len(), shape.query_heads, shape.kv_heads, groups];
        let mut merge = all_fit(header)?.to_vec();
        merge.extend(merged.as_flattened());
        let partial_bytes = (shape.head_dim + PARTIAL_HEADER) * size_of::<f32>();
        fit(builder.partials)?;
        Ok(Self {
            scratch_bytes: builder.partials.saturating_mul(partial_bytes),
            attend: builder
                .launches
                .into_iter()
                .map(|parts| parts.finish(shape))
                .collect::<Result<_, _>>()?,
            merge,
            merge_groups: groups,
            merge_constants: Constants { head_dim: shape.head_dim as u32, ..Constants::NONE },
        })
    }
}

impl Builder<'_> {
    /// Adds the groups that compute attention of a span over `rows`, behind `before` others.
    fn part(
        &mut self,
        span: &AttentionSpan<'_>,
        rows: &StoredRows<'_>,
        tables: Option<&Tables>,
        before: usize,
    ) -> Result<Slots, DeviceError> {
        let shape = self.shape;
        let stored = count(rows.runs);
        let last = span.end + span.rows - 1;
        let first = span.window.map_or(0, |window| span.end.saturating_sub(window));
        let seen = first.saturating_sub(before)..last.saturating_sub(before).min(stored);
        if seen.is_empty() {
            return Ok([0; 4]);
        }
        let first_split = seen.start / SPLIT;
        let splits = seen.end.div_ceil(SPLIT) - first_split;
        let all_queries = span.rows * (shape.query_heads / shape.kv_heads);
        let (kernel, queries) = self.kernel(span, rows, all_queries);
        let tiles = all_queries.div_ceil(queries);
        let slots = if tiles * shape.kv_heads >= MANY_TILES { 1 } else { splits };
        let place = all_fit([first_split, splits, slots, self.partials])?;
        self.partials = self.partials.saturating_add(all_queries * shape.kv_heads * slots);

        let launch = self.launch(kernel, constants(&rows.units, tables, queries));
        let mut part = [0; PART];
        part[..7].copy_from_slice(&all_fit([
            launch.groups,
            span.query,
            span.rows,
            span.end,
            window(span),
            before,
            stored,
        ])?);
        part[7..11].copy_from_slice(&place);
        part[11..13].copy_from_slice(&all_fit([launch.runs.len(), rows.runs.len()])?);
        part[13..17].copy_from_slice(&rows.units.words());
        part[17..25].copy_from_slice(&tables.unwrap_or(&PLAIN).words(shape.head_dim));
        launch.parts.push(part);
        launch.groups = launch.groups.saturating_add(shape.kv_heads * slots * tiles);
        let mut start = 0;
        for run in rows.runs {
            launch.runs.extend([start, run.line]);
            start = start.saturating_add(run.rows);
        }
        Ok(place)
    }

    /// What computes `all_queries` queries of each KV head over `rows`, and how many of them a group takes together.
    ///
    /// Which kernel it is does not depend on their number.
    fn kernel(
        &self,
        span: &AttentionSpan<'_>,
        rows: &StoredRows<'_>,
        all_queries: usize,
    ) -> (&'static str, usize) {
        let head_dim = self.shape.head_dim;
        let is_f16 = [rows.units.keys, rows.units.values].iter().all(|layout| layout.format() == Format::F16);
        let fits = head_dim.is_multiple_of(MATRIX_ROWS) && head_dim <= MAX_PROMPT_HEAD_DIM;
        if self.has_matrix_units && span.is_prompt && is_f16 && fits {
            let both = all_queries > MATRIX_ROWS && 2 * MATRIX_ROWS * head_dim <= PROMPT_TILE_CHANNELS;
            return (ATTEND_PROMPT, if both { 2 * MATRIX_ROWS } else { MATRIX_ROWS });
        }
        let channels = if rows.units.is_dense() { TILE_CHANNELS } else { TILE_CHANNELS / 2 };
        (ATTEND, tile_queries(channels / head_dim, all_queries))
    }

    /// The launch of a kernel for these constants. There are few.
    fn launch(&mut self, kernel: &'static str, constants: Constants) -> &mut Parts {
        let mut launches = self.launches.iter();
        let at = launches.position(|launch| launch.kernel == kernel && launch.constants == constants);
        let at = at.unwrap_or_else(|| {
            self.launches.push(Parts { kernel, constants, groups: 0, parts: Vec::new(), runs: Vec::new() });
            self.launches.len() - 1
        });
        &mut self.launches[at]
    }
}

impl Parts {
    fn finish(self, shape: &AttentionShape) -> Result<Attend, DeviceError> {
        fit(self.groups)?;
        let mut words = Vec::with_capacity(HEADER + self.parts.len() * PART + self.runs.len());
        words.extend(all_fit([self.parts.len(), shape.query_heads, shape.kv_heads])?);
        words.push(shape.scale.to_bits());
        words.extend(self.parts.as_flattened());
        words.extend(&self.runs);
        Ok(Attend { kernel: self.kernel, constants: self.constants, groups: self.groups, words })
    }
}

/// Queries that a group computes together, of `all`: a power of two, `most` at most.
fn tile_queries(most: usize, all: usize) -> usize {
    let most = most.clamp(1, MAX_QUERIES);
    all.next_power_of_two().min(1 << most.ilog2())
}

/// The span's window as kernels are told: none is the largest number.
fn window(span: &AttentionSpan<'_>) -> usize {
    span.window.unwrap_or(usize::MAX).min(u32::MAX as usize)
}

fn fit(number: usize) -> Result<u32, DeviceError> {
    u32::try_from(number).map_err(|_| DeviceError::unfit(super::ATTEND, format!("{number} is too large")))
}

fn all_fit<const N: usize>(numbers: [usize; N]) -> Result<[u32; N], DeviceError> {
    let mut words = [0; N];
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = fit(number)?;
    }
    Ok(words)
}
