//! Products, shared among threads.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{Activations, Forms, Writer};
use super::disjoint::Disjoint;
use super::kernel::{Scratch, multiply_panel, places};
use super::packed_matrix::PackedMatrix;
use super::weight_type::COLUMNS;
use crate::elementwise;
use crate::parallel;
use crate::simd::{Isa, LANES, Simd, Task, dispatch};

/// Bytes of weights, times tiles of rows, that a thread takes at a time at least: some microseconds.
const PIECE: usize = 1 << 15;

/// Pieces that work is cut into for each thread, so that none waits long for another.
const PIECES: usize = 8;

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

/// x W^T + b
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// W, (results, columns)
    pub matrix: &'a PackedMatrix,
    /// b, (results)
    pub bias: Option<&'a [f32]>,
}

/// A matrix, and where its products go.
#[derive(Debug)]
pub struct Output<'a> {
    /// What is computed.
    pub layer: Affine<'a>,
    /// (rows, results)
    pub results: &'a mut [f32],
    /// Whether products are added to what is there.
    pub add: bool,
}

/// down(silu(gate(x)) * up(x))
#[derive(Debug, Clone, Copy)]
pub struct Gated<'a> {
    /// To (inner).
    pub gate: Affine<'a>,
    /// To (inner).
    pub up: Affine<'a>,
    /// From (inner).
    pub down: Affine<'a>,
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

/// The products of some matrices with the same rows, with the instructions of `isa`.
///
/// # Errors
/// If something is not as long as it has to be.
pub fn multiply(isa: Isa, x: Input<'_>, outputs: &mut [Output<'_>]) -> Result<(), ShapeError> {
    let Some(columns) = outputs.first().map(|output| output.layer.matrix.columns()) else { return Ok(()) };
    let rows = check_rows(x.values, x.norm, columns)?;
    for Output { layer, results, .. } in &*outputs {
        layer.check([layer.matrix.rows(), columns])?;
        ShapeError::check("results", results.len(), rows * layer.matrix.rows())?;
    }
    let forms = Forms::of(outputs.iter().map(|output| output.layer.matrix));
    let x = Activations::of(isa, x.values, columns, x.norm, forms);
    multiply_activations(&x, outputs);
    Ok(())
}

/// Adds to rows, (rows, columns), what a feed-forward block makes of them, each first normalized; see [`Input`].
///
/// # Errors
/// If something is not as long as it has to be.
pub fn add_gated(
    isa: Isa,
    rows: &mut [f32],
    norm: Option<(&[f32], f32)>,
    block: &Gated<'_>,
) -> Result<(), ShapeError> {
    let Gated { gate, up, down } = *block;
    let (columns, inner) = (gate.matrix.columns(), gate.matrix.rows());
    let count = check_rows(rows, norm, columns)?;
    gate.check([inner, columns])?;
    up.check([inner, columns])?;
    down.check([columns, inner])?;
    let x = Activations::of(isa, rows, columns, norm, Forms::of([gate.matrix, up.matrix]));
    let mut activated = Activations::zeros(isa, [count, inner], Forms::of([down.matrix]));
    activate(&x, [gate, up], &activated.writer());
    multiply_activations(&activated, &mut [Output { layer: down, results: rows, add: true }]);
    Ok(())
}

/// Writes silu(gate) * up of all rows: products with pairs of panels of either.
fn activate(x: &Activations, layers: [Affine<'_>; 2], writer: &Writer<'_>) {
    let pairs = layers[0].matrix.rows().div_ceil(COLUMNS);
    let work = layers.iter().map(|layer| layer.matrix.bytes()).sum();
    run(x, pairs, work, |pairs, tiles, buffers| {
        for pair in pairs {
            activate_pair(x, layers, (pair, tiles.clone()), buffers, writer);
        }
    });
}

/// How many rows there are.
fn check_rows(values: &[f32], norm: Option<(&[f32], f32)>, columns: usize) -> Result<usize, ShapeError> {
    let rows = values.len() / columns.max(1);
    ShapeError::check("rows", values.len(), rows * columns)?;
    ShapeError::check("a norm", norm.map_or(columns, |(weight, _)| weight.len()), columns)?;
    Ok(rows)
}

impl Affine<'_> {
    fn check(&self, [results, columns]: [usize; 2]) -> Result<(), ShapeError> {
        ShapeError::check("a matrix with results", self.matrix.rows(), results)?;
        ShapeError::check("a matrix with rows", self.matrix.columns(), columns)?;
        ShapeError::check("a bias", self.bias.map_or(results, <[f32]>::len), results)
    }

    /// Adds the biases of a panel to its products.
    fn add_bias(&self, panel: usize, products: &mut [[f32; LANES]]) {
        if let Some(bias) = self.bias {
            let bias = &bias[panel * LANES..];
            for products in products {
                products.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
            }
        }
    }
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// What a thread needs beside; kept, since making it anew would take as long as a small product.
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
        end += output.layer.matrix.panels();
        ends.push(end);
    }
    let work = outputs.iter().map(|output| output.layer.matrix.bytes()).sum();
    let outputs: Vec<_> =
        outputs.iter_mut().map(|output| (output.layer, Disjoint::new(output.results), output.add)).collect();
    run(x, end, work, |panels, tiles, Buffers { scratch, results: products }| {
        let rows = x.rows_of(&tiles);
        let products = places(products, rows.len(), [0.0; LANES]);
        for panel in panels {
            let index = ends.partition_point(|end| *end <= panel);
            let (layer, results, add) = &outputs[index];
            let panel = panel - (ends[index] - layer.matrix.panels());
            multiply_panel(layer.matrix, panel, x, tiles.clone(), scratch, products);
            layer.add_bias(panel, products);
            let row_len = layer.matrix.rows();
            let columns = panel * LANES..row_len.min((panel + 1) * LANES);
            for (row, products) in rows.clone().zip(&*products) {
                // SAFETY: these columns of these rows are of one panel and one tile, which are of one piece.
                let to = unsafe { results.range(row * row_len + columns.start, columns.len()) };
                if *add {
                    to.iter_mut().zip(products).for_each(|(to, product)| *to += product);
                } else {
                    to.copy_from_slice(&products[..columns.len()]);
                }
            }
        }
    });
}

/// Products of two panels of either layer, and what becomes of them: columns of the next product's activations.
fn activate_pair(
    x: &Activations,
    layers: [Affine<'_>; 2],
    (pair, tiles): (usize, Range<usize>),
    Buffers { scratch, results }: &mut Buffers,
    writer: &Writer<'_>,
) {
    let rows = x.rows_of(&tiles);
    let count = rows.len();
    let inner = layers[0].matrix.rows();
    let panels = PAIR * pair..layers[0].matrix.panels().min(PAIR * (pair + 1));
    // Of the first layer's panels, then of the other's.
    let results = places(results, 2 * PAIR * count, [0.0; LANES]);
    for (layer, results) in layers.into_iter().zip(results.chunks_mut(PAIR * count)) {
        for (panel, results) in panels.clone().zip(results.chunks_mut(count)) {
            multiply_panel(layer.matrix, panel, x, tiles.clone(), scratch, results);
            layer.add_bias(panel, results);
        }
    }
    let (gate, up) = results.split_at_mut(PAIR * count);
    dispatch(x.isa, Activate { gate: gate.as_flattened_mut(), up: up.as_flattened() });
    let mut values = [0.0; COLUMNS];
    let columns = COLUMNS.min(inner - COLUMNS * pair);
    for (index, row) in rows.enumerate() {
        for (values, panel) in values.chunks_mut(LANES).zip(gate.chunks(count)) {
            values.copy_from_slice(&panel[index]);
        }
        let (tile, lane) = (row / x.tile_rows(), row % x.tile_rows());
        // SAFETY: these columns of these tiles are of one piece.
        unsafe { writer.put(tile, lane, pair, &values[..columns]) };
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
            BUFFERS.with_borrow_mut(|buffers| work(units, tiles, buffers));
        }
    });
}
