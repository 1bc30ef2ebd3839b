//! Products, shared among threads.

use std::ops::Range;

use super::activations::{Activations, Forms, Writer};
use super::disjoint::Disjoint;
use super::kernel::{Scratch, multiply_panel};
use super::packed_matrix::PackedMatrix;
use super::weight_type::COLUMNS;
use crate::elementwise;
use crate::parallel;
use crate::simd::{Isa, LANES, Simd, Task, dispatch};

/// Bytes of weights, times tiles of rows, that a thread takes at a time at least: some microseconds.
const PIECE: usize = 1 << 15;

/// Pieces that work is cut into for each thread, so that none waits long for another.
const PIECES: usize = 6;

/// Bytes of rounded rows that stay near while panels are gone through.
const NEAR: usize = 1 << 19;

/// Panels whose rows make the columns that activations are rounded in.
const PAIR: usize = COLUMNS / LANES;

/// Rows of activations, (rows, columns).
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// One row after the other.
    pub values: &'a [f32],
    /// Weights and epsilon of the norm that each row goes through first; see [`elementwise::rms_norm`].
    pub norm: Option<(&'a [f32], f32)>,
}

/// A matrix, and where its products go.
#[derive(Debug)]
pub struct Output<'a> {
    /// (results, columns)
    pub matrix: &'a PackedMatrix,
    /// (results), added to each row.
    pub bias: Option<&'a [f32]>,
    /// (rows, results)
    pub results: &'a mut [f32],
    /// Whether products are added to what is there.
    pub add: bool,
}

/// Why there is no product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {found} values where {expected} are needed")]
pub struct ShapeError {
    /// What does not fit.
    what: &'static str,
    found: usize,
    expected: usize,
}

impl ShapeError {
    fn check(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self { what, found, expected }) }
    }
}

/// x W^T (+ b) for each of some matrices, with the instructions of `isa`.
///
/// # Errors
/// If something is not as long as it has to be.
pub fn multiply(isa: Isa, x: Input<'_>, outputs: &mut [Output<'_>]) -> Result<(), ShapeError> {
    let Some(columns) = outputs.first().map(|output| output.matrix.columns()) else { return Ok(()) };
    let rows = x.rows(columns)?;
    for Output { matrix, bias, results, .. } in &*outputs {
        ShapeError::check("a matrix with rows", matrix.columns(), columns)?;
        ShapeError::check("results", results.len(), rows * matrix.rows())?;
        ShapeError::check("a bias", bias.map_or(matrix.rows(), <[f32]>::len), matrix.rows())?;
    }
    let forms = Forms::of(outputs.iter().map(|output| output.matrix));
    let x = Activations::of(isa, x.values, columns, x.norm, forms);
    multiply_activations(&x, outputs);
    Ok(())
}

/// Adds (silu(x G^T) * (x U^T)) D^T to `results`, (rows, results): `gate` and `up`, (inner, columns), and `down`, (results, inner).
///
/// # Errors
/// If something is not as long as it has to be.
pub fn multiply_gated(
    isa: Isa,
    x: Input<'_>,
    [gate, up]: [&PackedMatrix; 2],
    down: &PackedMatrix,
    results: &mut [f32],
) -> Result<(), ShapeError> {
    let (columns, inner) = (gate.columns(), gate.rows());
    let rows = x.rows(columns)?;
    ShapeError::check("a matrix with rows", up.columns(), columns)?;
    ShapeError::check("a matrix", up.rows(), inner)?;
    ShapeError::check("a matrix with rows", down.columns(), inner)?;
    ShapeError::check("results", results.len(), rows * down.rows())?;
    let x = Activations::of(isa, x.values, columns, x.norm, Forms::of([gate, up]));
    let mut activated = Activations::to_be_written(isa, [rows, inner], Forms::of([down]));
    let writer = activated.writer();
    // Products with pairs of panels of either.
    let pairs = inner.div_ceil(COLUMNS);
    let work = gate.bytes() + up.bytes();
    run(&x, pairs, work, |pairs, tiles, scratch| {
        for pair in pairs {
            activate_pair(&x, [gate, up], pair, tiles.clone(), scratch, &writer);
        }
    });
    drop(writer);
    multiply_activations(&activated, &mut [Output { matrix: down, bias: None, results, add: true }]);
    Ok(())
}

impl Input<'_> {
    fn rows(&self, columns: usize) -> Result<usize, ShapeError> {
        let rows = self.values.len() / columns.max(1);
        ShapeError::check("rows", self.values.len(), rows * columns)?;
        ShapeError::check("a norm", self.norm.map_or(columns, |(weight, _)| weight.len()), columns)?;
        Ok(rows)
    }
}

/// What threads need beside.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    /// Results of up to four panels, one after the other, (rows, 16).
    results: Vec<[f32; LANES]>,
}

fn multiply_activations(x: &Activations, outputs: &mut [Output<'_>]) {
    let mut ends = Vec::with_capacity(outputs.len());
    let mut end = 0;
    for output in &*outputs {
        end += output.matrix.panels();
        ends.push(end);
    }
    let work = outputs.iter().map(|output| output.matrix.bytes()).sum();
    let outputs: Vec<_> = outputs
        .iter_mut()
        .map(|Output { matrix, bias, results, add }| (*matrix, *bias, Disjoint::new(results), *add))
        .collect();
    run(x, end, work, |panels, tiles, buffers| {
        let first = tiles.start * x.tile_rows();
        let rows = x.rows.min(tiles.end * x.tile_rows()) - first;
        buffers.results.resize(rows, [0.0; LANES]);
        for panel in panels {
            let index = ends.partition_point(|end| *end <= panel);
            let (matrix, bias, results, add) = &outputs[index];
            let panel = panel - (ends[index] - matrix.panels());
            multiply_panel(matrix, panel, x, tiles.clone(), &mut buffers.scratch, &mut buffers.results);
            let columns = panel * LANES..matrix.rows().min((panel + 1) * LANES);
            let bias = bias.map(|bias| &bias[columns.clone()]);
            for (row, products) in buffers.results.iter_mut().enumerate() {
                // SAFETY: these columns of these rows are of one panel and one tile, which are of one piece.
                let to =
                    unsafe { results.range((first + row) * matrix.rows() + columns.start, columns.len()) };
                if let Some(bias) = bias {
                    products.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
                }
                if *add {
                    to.iter_mut().zip(&*products).for_each(|(to, product)| *to += product);
                } else {
                    to.copy_from_slice(&products[..columns.len()]);
                }
            }
        }
    });
}

/// Products of two panels of either matrix, and what becomes of them: columns of the next product's activations.
fn activate_pair(
    x: &Activations,
    matrices: [&PackedMatrix; 2],
    pair: usize,
    tiles: Range<usize>,
    Buffers { scratch, results }: &mut Buffers,
    writer: &Writer<'_>,
) {
    let tile_rows = x.tile_rows();
    let first = tiles.start * tile_rows;
    let rows = x.rows.min(tiles.end * tile_rows) - first;
    let panels = PAIR * pair..matrices[0].panels().min(PAIR * (pair + 1));
    let columns = COLUMNS.min(matrices[0].rows() - COLUMNS * pair);
    // Of the first matrix's panels, then of the other's.
    results.resize(2 * PAIR * rows, [0.0; LANES]);
    for (matrix, results) in matrices.into_iter().zip(results.chunks_mut(PAIR * rows)) {
        for (panel, results) in panels.clone().zip(results.chunks_mut(rows)) {
            multiply_panel(matrix, panel, x, tiles.clone(), scratch, results);
        }
    }
    let (gate, up) = results.split_at_mut(PAIR * rows);
    dispatch(x.isa, Activate { gate: gate.as_flattened_mut(), up: up.as_flattened() });
    let mut row_values = [0.0; COLUMNS];
    for row in 0..rows {
        for (values, panel) in row_values.chunks_mut(LANES).zip(gate.chunks(rows)) {
            values.copy_from_slice(&panel[row]);
        }
        let (tile, lane) = ((first + row) / tile_rows, row % tile_rows);
        // SAFETY: these columns of these tiles are of one piece.
        unsafe { writer.put(tile, lane, pair, &row_values[..columns]) };
    }
}

/// See [`elementwise::silu_times`].
struct Activate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<S: Simd> Task<S> for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _simd: S) {
        elementwise::silu_times(self.gate, self.up);
    }
}

/// Shares out work that takes `units` of panels, `bytes` of weights in all, and all tiles of `x`: calls `work` with some of both.
fn run(
    x: &Activations,
    units: usize,
    bytes: usize,
    work: impl Fn(Range<usize>, Range<usize>, &mut Buffers) + Sync,
) {
    let tiles = x.tiles();
    if units == 0 || tiles == 0 {
        return;
    }
    let near = (NEAR / (x.columns * x.tile_rows()).max(1)).max(1);
    let tile_pieces = tiles.div_ceil(near);
    let tiles_each = tiles.div_ceil(tile_pieces);
    let unit = (bytes / units * tiles_each).max(1);
    let threads = parallel::threads().get();
    let units_each = PIECE.div_ceil(unit).max(units * tile_pieces / (PIECES * threads)).clamp(1, units);
    let unit_pieces = units.div_ceil(units_each);
    parallel::run(unit_pieces * tile_pieces, |piece| {
        let (unit, tile) = (piece % unit_pieces * units_each, piece / unit_pieces * tiles_each);
        let units = unit..units.min(unit + units_each);
        let tiles = tile..tiles.min(tile + tiles_each);
        if !tiles.is_empty() {
            work(units, tiles, &mut Buffers::default());
        }
    });
}
