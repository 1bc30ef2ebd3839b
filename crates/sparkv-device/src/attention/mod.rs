//! Attention of queries over stored rows.
//!
//! For a ragged batch of spans: each has queries at positions that follow one another, and rows that are stored, quantized ones
//! first. `attend` computes parts of it, [`plan`] says which, and `merge` puts them together. What comes out for a query depends on
//! neither the other queries of its span nor on the batch.
//!
//! A prompt's queries over dense rows in f16 are computed by `attend_prompt` instead, with matrix units, where the device has them. Its
//! results are as exact, and differ in the last bits; so which of the two it is follows from the span, never from how many
//! queries it has.

mod plan;

use sparkv_kernels::{Format, KeptFormat};

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View};
use crate::rows::{LINE, Run, Units};
use crate::tables::{KeyDomain, Tables};
use plan::Plans;

const ATTEND: &str = "attend";
const ATTEND_PROMPT: &str = "attend_prompt";
const MERGE: &str = "merge";

/// What attention needs to know of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// Rows of a layer that are stored alike.
#[derive(Debug, Clone, Copy)]
pub struct StoredRows<'a> {
    /// How they lie.
    pub units: Units,
    /// Where.
    pub runs: &'a [Run],
}

/// Queries of a sequence that follow one another, and the rows stored of it.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpan<'a> {
    /// The first of their rows.
    pub query: usize,
    /// Where attention goes: the first row.
    pub out: usize,
    /// How many positions.
    pub rows: usize,
    /// Stored rows, quantized ones and then dense ones, before which the first position's sight ends; each position sees one more.
    pub end: usize,
    /// A position sees the last so many of them; all if `None`.
    pub window: Option<usize>,
    /// Quantized rows and their domain, if there are any.
    pub quantized: Option<(StoredRows<'a>, Tables)>,
    /// Dense rows.
    pub dense: StoredRows<'a>,
    /// Whether the queries are a prompt's: many, for the most part.
    pub is_prompt: bool,
}

/// Memory that attention is computed in.
#[derive(Debug, Clone, Copy)]
pub struct AttentionMemory<'a> {
    /// Where rows and tables are.
    pub pool: View<'a>,
    /// (rows, query_heads * head_dim), f32: queries, not yet times the attention scale.
    pub queries: View<'a>,
    /// [`AttentionPlan::scratch_bytes`] bytes.
    pub scratch: View<'a>,
    /// (rows, query_heads * head_dim), f32: attention; zeros for a query that sees nothing.
    pub out: View<'a>,
}

/// What is launched for a batch of spans.
#[derive(Debug)]
pub struct AttentionPlan {
    plans: Plans,
    has_matrix_units: bool,
    /// Bytes that are reached at most: of the pool, of queries, of the output.
    reach: [usize; 3],
}

impl AttentionPlan {
    /// For the spans of a batch, over one layer's rows. To be launched on `device`.
    ///
    /// # Errors
    /// If what they say does not fit together, or rows are stored in a way that has no kernel.
    pub fn new(
        device: &Device,
        shape: &AttentionShape,
        spans: &[AttentionSpan<'_>],
    ) -> Result<Self, DeviceError> {
        let &AttentionShape { query_heads, kv_heads, head_dim, .. } = shape;
        if kv_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            let reason = format!("{query_heads} query heads for {kv_heads} KV heads");
            return Err(DeviceError::unfit(ATTEND, reason));
        }
        let row = query_heads * head_dim * size_of::<f32>();
        let mut reach = [0; 3];
        for span in spans {
            let pool = check_span(shape, span)?;
            let rows = [span.query, span.out].map(|first| {
                first.checked_add(span.rows).and_then(|rows| rows.checked_mul(row)).unwrap_or(usize::MAX)
            });
            for (reach, reached) in reach.iter_mut().zip([pool, rows[0], rows[1]]) {
                *reach = (*reach).max(reached);
            }
        }
        let has_matrix_units = device.has_matrix_units();
        Ok(Self { plans: Plans::new(shape, spans, has_matrix_units)?, has_matrix_units, reach })
    }

    /// Bytes of memory for what is computed on the way.
    pub fn scratch_bytes(&self) -> usize {
        self.plans.scratch_bytes
    }

    /// Computes attention.
    ///
    /// # Errors
    /// If the memory does not have what the spans said, or the device fails or is of another kind than the one planned for.
    #[allow(unsafe_code, reason = "launches what was checked")]
    pub fn launch(&self, device: &Device, memory: AttentionMemory<'_>) -> Result<(), DeviceError> {
        let AttentionMemory { pool, queries, scratch, out } = memory;
        let [in_pool, in_queries, in_out] = self.reach;
        pool.check(ATTEND, [in_pool, 1], false)?;
        queries.check(ATTEND, [in_queries, 1], false)?;
        scratch.check(ATTEND, [self.scratch_bytes(), 1], true)?;
        out.check(MERGE, [in_out, 1], true)?;
        if self.has_matrix_units && !device.has_matrix_units() {
            return Err(DeviceError::unfit(ATTEND, "what was planned for matrix units"));
        }
        let (pool, queries) = (pool.read_only(), queries.read_only());
        for attend in &self.plans.attend {
            let launch = Launch {
                kernel: attend.kernel,
                constants: attend.constants,
                groups: attend.groups,
                arguments: &[pool, queries, scratch],
                plan: &attend.words,
            };
            // SAFETY: rows and tables were checked to end within what is reached of the pool, and so were the spans' rows of
            // queries; partial results are counted.
            unsafe { device.launch(&launch) }?;
        }
        let launch = Launch {
            kernel: MERGE,
            constants: self.plans.merge_constants,
            groups: self.plans.merge_groups,
            arguments: &[scratch.read_only(), pool, out],
            plan: &self.plans.merge,
        };
        // SAFETY: as above, for the output.
        unsafe { device.launch(&launch) }
    }
}

/// Checks a span by itself; gives the bytes of the pool that it reaches.
fn check_span(shape: &AttentionShape, span: &AttentionSpan<'_>) -> Result<usize, DeviceError> {
    let mut reach = check_rows(shape, &span.dense)?;
    if !span.dense.units.is_dense() {
        return Err(DeviceError::unfit(ATTEND, "rows that are said to be dense are quantized"));
    }
    let mut stored = count(span.dense.runs);
    if let Some((rows, tables)) = &span.quantized {
        reach = reach.max(check_rows(shape, rows)?);
        reach = reach.max(check_domain(shape, rows, tables)?);
        stored += count(rows.runs);
    }
    let last = span.end.checked_add(span.rows.saturating_sub(1));
    if last.is_none_or(|end| end > stored) {
        let reason = format!("{} positions from row {} on see {stored} stored rows", span.rows, span.end);
        return Err(DeviceError::unfit(ATTEND, reason));
    }
    Ok(reach)
}

fn check_rows(shape: &AttentionShape, rows: &StoredRows<'_>) -> Result<usize, DeviceError> {
    let StoredRows { units, runs } = rows;
    let layouts = [units.keys, units.values];
    if units.heads != shape.kv_heads || layouts.iter().any(|layout| layout.head_dim() != shape.head_dim) {
        return Err(DeviceError::unfit(ATTEND, "rows of another shape than the model's"));
    }
    let is_f32 = |format| matches!(format, Format::Packed(packing) if packing.values == KeptFormat::F32);
    if layouts.iter().any(|layout| is_f32(layout.format())) {
        return Err(DeviceError::unfit(ATTEND, "packed rows that keep f32 are for the CPU"));
    }
    let Some((last, others)) = runs.split_last() else { return Ok(0) };
    if others.iter().any(|run| run.rows == 0 || !(run.rows as usize).is_multiple_of(units.rows()))
        || (!units.is_dense() && !(last.rows as usize).is_multiple_of(units.rows()))
    {
        return Err(DeviceError::unfit(
            ATTEND,
            "a run that others follow, or of quantized rows, holds whole units",
        ));
    }
    let end = |run: &Run| {
        let units_held = (run.rows as usize).div_ceil(units.rows());
        units_held.saturating_mul(units.bytes()).saturating_add(run.line as usize * LINE)
    };
    Ok(runs.iter().map(end).max().unwrap_or(0))
}

/// Checks that the kernel knows the domain; gives the bytes of the pool that its tables end at.
fn check_domain(
    shape: &AttentionShape,
    rows: &StoredRows<'_>,
    tables: &Tables,
) -> Result<usize, DeviceError> {
    let keys = &rows.units.keys;
    let allotted = tables.keys == KeyDomain::Allotted;
    let fits = match keys.format() {
        Format::Planes(widths) => allotted || widths.of_all(shape.head_dim).is_some(),
        Format::Int8 | Format::Packed(_) => !allotted,
        Format::F32 | Format::F16 => tables.keys == KeyDomain::Plain,
    };
    if !fits || rows.units.is_dense() || (tables.values_rotated && !rows.units.values.is_quantized()) {
        let reason = format!("keys {:?} in the domain {:?}", keys.format(), tables.keys);
        return Err(DeviceError::unfit(ATTEND, reason));
    }
    let bytes = rows.units.heads.saturating_mul(tables.head_bytes(shape.head_dim));
    Ok(bytes.saturating_add(tables.line as usize * LINE))
}

fn count(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.rows as usize).sum()
}

/// What a tile of queries over such rows is compiled for.
fn constants(units: &Units, tables: Option<&Tables>, queries: usize) -> Constants {
    let allotted = tables.is_some_and(|tables| tables.keys == KeyDomain::Allotted);
    Constants::new(&units.keys, &units.values, allotted, queries)
}
