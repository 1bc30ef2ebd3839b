//! Rows of activations on their way into a product.
//!
//! For weights with codes they are rounded, every 32 columns by themselves, to whole numbers up to 127 in magnitude times a
//! scale. They lie in **tiles** of as many rows as a kernel takes at once, the rows of a tile side by side.

use std::ops::Range;

use super::codes::QUADS;
use super::disjoint::Disjoint;
use super::packed_matrix::PackedMatrix;
use super::weight_type::COLUMNS;
use crate::parallel;
use crate::simd::integers::Integers;
use crate::simd::{Isa, LANES, Simd, Task, dispatch};

/// Sums of codes that are kept: of both halves of 32 columns, of the first and of the second.
const SUMS: usize = 3;

/// Values that a thread takes at a time, about.
const PIECE: usize = 1 << 14;

/// Magnitudes below are rounded to zero: their reciprocals would be infinite.
const SMALLEST: f32 = 1e-30;

/// The forms that activations are wanted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forms {
    rounded: bool,
    plain: bool,
}

impl Forms {
    /// Those for products with these matrices.
    pub(super) fn of<'a>(matrices: impl IntoIterator<Item = &'a PackedMatrix>) -> Self {
        let none = Self { rounded: false, plain: false };
        matrices.into_iter().fold(none, |forms, matrix| {
            let plain = matrix.weight_type().is_dense();
            Self { rounded: forms.rounded || !plain, plain: forms.plain || plain }
        })
    }
}

/// Rows (rows, columns) in the forms that some matrices want.
#[derive(Debug)]
pub(super) struct Activations {
    pub(super) isa: Isa,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Rows of all tiles but the last.
    width: usize,
    /// Rows of all tiles, those that nobody asked for included.
    padded: usize,
    rounded: Option<Rounded>,
    /// In each tile (columns, rows).
    plain: Option<Vec<f32>>,
}

/// In each tile, for every 32 columns:
#[derive(Debug)]
struct Rounded {
    /// (QUADS, rows): four bytes each.
    quads: Vec<i32>,
    /// (SUMS, rows): what the codes sum up to, negative.
    sums: Vec<i32>,
    /// (rows)
    scales: Vec<f32>,
}

/// Rounded activations of a tile of `P` rows.
#[derive(Clone, Copy)]
pub(super) struct RoundedTile<'a, const P: usize> {
    pub(super) quads: &'a [[[i32; P]; QUADS]],
    pub(super) sums: &'a [[[i32; P]; SUMS]],
    pub(super) scales: &'a [[f32; P]],
}

/// How many rows a tile has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    One,
    Four,
    Eight,
}

impl Width {
    /// The widest with these instructions.
    fn of(isa: Isa) -> usize {
        if isa.has_many_registers() { 8 } else { 4 }
    }

    /// The narrowest for this many rows.
    fn for_rows(rows: usize) -> usize {
        match rows {
            0 | 1 => rows,
            2..=4 => 4,
            _ => 8,
        }
    }
}

impl Activations {
    /// Rows that are all zeros, to be written.
    pub(super) fn zeros(isa: Isa, [rows, columns]: [usize; 2], forms: Forms) -> Self {
        let width = Width::of(isa);
        let padded = rows / width * width + Width::for_rows(rows % width);
        let blocks = padded * columns.div_ceil(COLUMNS);
        let rounded = forms.rounded.then(|| Rounded {
            quads: vec![0; blocks * QUADS],
            sums: vec![0; blocks * SUMS],
            scales: vec![0.0; blocks],
        });
        let plain = forms.plain.then(|| vec![0.0; padded * columns]);
        Self { isa, rows, columns, width, padded, rounded, plain }
    }

    /// Of rows that lie one after the other, each first normalized by `norm`, if there is one: its weights and epsilon
    /// (see [`crate::elementwise::rms_norm`]).
    pub(super) fn of(
        isa: Isa,
        values: &[f32],
        columns: usize,
        norm: Option<(&[f32], f32)>,
        forms: Forms,
    ) -> Self {
        let rows = values.len() / columns.max(1);
        let mut activations = Self::zeros(isa, [rows, columns], forms);
        let tiles = activations.tiles();
        let tile_values = activations.width * columns;
        let per_piece = (PIECE / tile_values.max(1)).max(1);
        let writer = activations.writer();
        parallel::run(tiles.div_ceil(per_piece), |piece| {
            let mut normed = vec![0.0; if norm.is_some() { columns } else { 0 }];
            for tile in piece * per_piece..tiles.min((piece + 1) * per_piece) {
                let values = &values[tile * tile_values..];
                for (lane, row) in values.chunks_exact(columns).take(writer.width).enumerate() {
                    let row = match norm {
                        Some((weight, eps)) => {
                            dispatch(isa, Norm { row, weight, eps, normed: &mut normed });
                            &normed
                        }
                        None => row,
                    };
                    // SAFETY: every tile is in one piece.
                    unsafe { writer.put(tile, lane, 0, row) };
                }
            }
        });
        activations
    }

    /// How many tiles there are.
    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.width)
    }

    /// Rows of all tiles but the last.
    pub(super) fn tile_rows(&self) -> usize {
        self.width
    }

    /// The rows of some tiles.
    pub(super) fn rows_of(&self, tiles: &Range<usize>) -> Range<usize> {
        tiles.start * self.width..self.rows.min(tiles.end * self.width)
    }

    /// Rows that a tile has room for.
    pub(super) fn width(&self, tile: usize) -> Width {
        match self.width.min(self.padded - tile * self.width) {
            1 => Width::One,
            2..=4 => Width::Four,
            _ => Width::Eight,
        }
    }

    /// Rounded rows of a tile that has room for `P`.
    pub(super) fn rounded<const P: usize>(&self, tile: usize) -> RoundedTile<'_, P> {
        let blocks = self.columns / COLUMNS;
        let start = tile * self.width * blocks;
        let Some(rounded) = &self.rounded else {
            return RoundedTile { quads: &[], sums: &[], scales: &[] };
        };
        RoundedTile {
            quads: rounded.quads[start * QUADS..].as_chunks().0[..blocks * QUADS].as_chunks().0,
            sums: rounded.sums[start * SUMS..].as_chunks().0[..blocks * SUMS].as_chunks().0,
            scales: &rounded.scales[start..].as_chunks().0[..blocks],
        }
    }

    /// A tile with room for `P` rows as it was, (columns).
    pub(super) fn plain<const P: usize>(&self, tile: usize) -> &[[f32; P]] {
        match &self.plain {
            Some(values) => &values[tile * self.width * self.columns..].as_chunks().0[..self.columns],
            None => &[],
        }
    }

    /// What writes to it from several threads.
    pub(super) fn writer(&mut self) -> Writer<'_> {
        let Self { isa, columns, width, padded, .. } = *self;
        let rounded = self.rounded.as_mut().map(|Rounded { quads, sums, scales }| {
            (Disjoint::new(quads), Disjoint::new(sums), Disjoint::new(scales))
        });
        let plain = self.plain.as_mut().map(|plain| Disjoint::new(plain));
        Writer { isa, columns, width, padded, rounded, plain }
    }
}

/// Writes activations.
pub(super) struct Writer<'a> {
    isa: Isa,
    columns: usize,
    width: usize,
    padded: usize,
    rounded: Option<(Disjoint<'a, i32>, Disjoint<'a, i32>, Disjoint<'a, f32>)>,
    plain: Option<Disjoint<'a, f32>>,
}

impl Writer<'_> {
    /// Writes columns of a row, those from the first of `block` on, in row `lane` of a tile. Where they are rounded, they are
    /// whole blocks of 32.
    ///
    /// # Safety
    /// Nobody else may write to the same columns of the same tile meanwhile.
    pub(super) unsafe fn put(&self, tile: usize, lane: usize, block: usize, values: &[f32]) {
        let rows = self.width.min(self.padded - tile * self.width);
        if let Some((quads, sums, scales)) = &self.rounded {
            let blocks = values.len() / COLUMNS;
            let start = tile * self.width * (self.columns / COLUMNS) + block * rows;
            // SAFETY: they belong to these columns and this tile.
            let (quads, sums, scales) = unsafe {
                (
                    quads.range(start * QUADS, blocks * rows * QUADS),
                    sums.range(start * SUMS, blocks * rows * SUMS),
                    scales.range(start, blocks * rows),
                )
            };
            dispatch(self.isa, Round { values: values.as_chunks().0, rows, lane, quads, sums, scales });
        }
        if let Some(plain) = &self.plain {
            let start = tile * self.width * self.columns + block * COLUMNS * rows;
            // SAFETY: as above.
            let plain = unsafe { plain.range(start, values.len() * rows) };
            plain.chunks_exact_mut(rows).zip(values).for_each(|(column, value)| column[lane] = *value);
        }
    }
}

/// The norm of a row.
struct Norm<'a> {
    row: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    normed: &'a mut [f32],
}

impl<S: Simd> Task<S> for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _simd: S) {
        crate::elementwise::rms_norm(self.row, self.weight, self.eps, self.normed);
    }
}

/// Rounds a row, every 32 values by themselves, and writes it between the other rows of its tile. Where a value is not
/// finite, the scale is NaN.
struct Round<'a> {
    values: &'a [[f32; COLUMNS]],
    /// Rows of the tile.
    rows: usize,
    lane: usize,
    quads: &'a mut [i32],
    sums: &'a mut [i32],
    scales: &'a mut [f32],
}

impl<S: Integers> Task<S> for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let Self { values, rows, lane, quads, sums, scales } = self;
        let quads = quads.chunks_exact_mut(rows * QUADS);
        let places = quads.zip(sums.chunks_exact_mut(rows * SUMS)).zip(scales.chunks_exact_mut(rows));
        for (values, ((quads, sums), scales)) in values.iter().zip(places) {
            let (halves, _) = values.as_chunks::<LANES>();
            let [first, second] = [simd.load(&halves[0]), simd.load(&halves[1])];
            let largest = simd.largest_magnitude(first, second);
            let (scale, reciprocal) = if largest < SMALLEST {
                (0.0, 0.0)
            } else if largest.is_finite() {
                (largest / 127.0, 127.0 / largest)
            } else {
                (f32::NAN, 0.0)
            };
            let reciprocal = simd.splat(reciprocal);
            let [first, second] =
                [simd.to_i32(simd.mul(first, reciprocal)), simd.to_i32(simd.mul(second, reciprocal))];
            let halves = [simd.low_bytes(first), simd.low_bytes(second)];
            // (Loops, since closures are compiled without the instructions, and not always inlined.)
            for (quads, quad) in quads.chunks_exact_mut(rows).zip(halves.as_flattened()) {
                quads[lane] = *quad;
            }
            let [first, second] = [simd.sum_i32(first), simd.sum_i32(second)];
            let of_parts = [first.wrapping_add(second), first, second];
            for (sums, sum) in sums.chunks_exact_mut(rows).zip(of_parts) {
                sums[lane] = sum.wrapping_neg();
            }
            scales[lane] = scale;
        }
    }
}
