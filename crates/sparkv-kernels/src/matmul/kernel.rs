//! A panel of weights times activations.
//!
//! The sum of 32 columns is one of whole numbers, and exact; sums of these are added in the order of the columns, each by one
//! fused operation. So a result is the same whatever else is computed beside it.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{Activations, RoundedTile, Width};
use super::codes::{self, QUADS};
use super::packed_matrix::{HALVES, PackedMatrix, scales_at, small_scales_at};
use super::weight_type::{Shape, WeightType};
use crate::format::F16_BYTES;
use crate::simd::integers::{Integers, Quads};
use crate::simd::{LANES, Lanes, Simd, Task, dispatch};

/// Codes of 32 columns, a byte each.
type Bytes = [Quads; QUADS];

/// How far ahead weights are fetched, in bytes: codes, and their scales, of which there are fewer.
const AHEAD: usize = 4096;
const SCALES_AHEAD: usize = AHEAD / 8;

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<Bytes>,
}

/// The first `len` places of a buffer, which grows if it has fewer.
pub(super) fn places<T: Clone>(buffer: &mut Vec<T>, len: usize, empty: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, empty);
    }
    &mut buffer[..len]
}

/// Computes the products of a panel with the rows of some tiles: `out` has 16 results for each of these rows.
pub(super) fn multiply_panel(
    matrix: &PackedMatrix,
    panel: usize,
    x: &Activations,
    tiles: Range<usize>,
    scratch: &mut Scratch,
    out: &mut [[f32; LANES]],
) {
    let (codes, scales) = (matrix.codes(panel), matrix.scales(panel));
    let panel = Panel { codes, scales };
    match matrix.weight_type() {
        WeightType::F32 => dense(panel.codes.as_chunks::<{ 4 * LANES }>().0, x, tiles, out),
        WeightType::F16 => dense(panel.codes.as_chunks::<{ F16_BYTES * LANES }>().0, x, tiles, out),
        WeightType::Bf16 => dense(bytemuck::cast_slice::<u8, Bf16s>(panel.codes), x, tiles, out),
        WeightType::Q8_0 => panel.multiply::<Q8_0>(x, tiles, scratch, out),
        WeightType::Q4_0 => panel.multiply::<Q4_0>(x, tiles, scratch, out),
        WeightType::Q4_1 => panel.multiply::<Q4_1>(x, tiles, scratch, out),
        WeightType::Q5_0 => panel.multiply::<Q5_0>(x, tiles, scratch, out),
        WeightType::Q5_1 => panel.multiply::<Q5_1>(x, tiles, scratch, out),
        WeightType::Q2K => panel.multiply::<Q2K>(x, tiles, scratch, out),
        WeightType::Q3K => panel.multiply::<Q3K>(x, tiles, scratch, out),
        WeightType::Q4K => panel.multiply::<Q4K>(x, tiles, scratch, out),
        WeightType::Q5K => panel.multiply::<Q5K>(x, tiles, scratch, out),
        WeightType::Q6K => panel.multiply::<Q6K>(x, tiles, scratch, out),
    }
}

/// A type of weights with codes, known to the compiler.
trait Quantized: Copy {
    const SHAPE: Shape;
}

macro_rules! quantized {
    ($($name:ident)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Quantized for $name {
            const SHAPE: Shape = match WeightType::$name.shape() {
                Some(shape) => shape,
                None => panic!("a dense type"),
            };
        }
    )*};
}

quantized!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K);

/// 16 rows of a matrix.
#[derive(Clone, Copy)]
struct Panel<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
}

impl<'a> Panel<'a> {
    fn multiply<K: Quantized>(
        self,
        x: &Activations,
        tiles: Range<usize>,
        scratch: &mut Scratch,
        out: &mut [[f32; LANES]],
    ) {
        let packed = self.codes.as_chunks().0;
        let bytes = if tiles.clone().all(|tile| x.width(tile) == Width::One) {
            &[]
        } else if K::SHAPE.bits == 8 {
            packed.as_chunks().0
        } else {
            let bytes = places(&mut scratch.bytes, packed.len() / K::SHAPE.bits, [[0; 4 * LANES]; QUADS]);
            dispatch(x.isa, Unpack::<K> { packed, bytes, of: PhantomData });
            bytes
        };
        let scales = self.scales;
        let turns = tiles.len();
        for (turn, (tile, out)) in tiles.zip(out.chunks_mut(x.tile_rows())).enumerate() {
            let next = Next { packed, scales, turn, turns };
            match x.width(tile) {
                Width::One => {
                    let row = Row::<K> { packed, scales, x: x.rounded(tile), of: PhantomData };
                    store(out, [dispatch(x.isa, row)]);
                }
                Width::Four => {
                    let tile = Tile::<K, 4> { bytes, scales, x: x.rounded(tile), next, of: PhantomData };
                    store(out, dispatch(x.isa, tile));
                }
                Width::Eight => {
                    let tile = Tile::<K, 8> { bytes, scales, x: x.rounded(tile), next, of: PhantomData };
                    store(out, dispatch(x.isa, tile));
                }
            }
        }
    }
}

fn dense<L: Lanes>(numbers: &[L], x: &Activations, tiles: Range<usize>, out: &mut [[f32; LANES]]) {
    for (tile, out) in tiles.zip(out.chunks_mut(x.tile_rows())) {
        match x.width(tile) {
            Width::One => store(out, dispatch(x.isa, Dense { numbers, x: x.plain::<1>(tile) })),
            Width::Four => store(out, dispatch(x.isa, Dense { numbers, x: x.plain::<4>(tile) })),
            Width::Eight => store(out, dispatch(x.isa, Dense { numbers, x: x.plain::<8>(tile) })),
        }
    }
}

/// Leaves out rows that nobody asked for.
fn store<const P: usize>(out: &mut [[f32; LANES]], results: [[f32; LANES]; P]) {
    out.iter_mut().zip(results).for_each(|(out, result)| *out = result);
}

/// Results of each row.
#[inline(always)]
fn stored<S: Simd, const P: usize>(simd: S, results: [S::F; P]) -> [[f32; LANES]; P] {
    let mut out = [[0.0; LANES]; P];
    for (result, out) in results.into_iter().zip(&mut out) {
        simd.store(result, out);
    }
    out
}

/// Whether no tile is as wide with these instructions, so that nothing need be compiled for it.
#[inline(always)]
const fn is_too_wide<S: Simd, const P: usize>() -> bool {
    P > 4 && !S::MANY_REGISTERS
}

/// A panel's codes become bytes.
struct Unpack<'a, K> {
    packed: &'a [Quads],
    bytes: &'a mut [Bytes],
    of: PhantomData<K>,
}

impl<S: Integers, K: Quantized> Task<S> for Unpack<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        for (packed, bytes) in self.packed.chunks_exact(K::SHAPE.bits).zip(self.bytes) {
            prefetch_ahead(simd, packed);
            for (quad, bytes) in codes::unpack(simd, K::SHAPE, packed).into_iter().zip(bytes) {
                simd.store_bytes(quad, bytes);
            }
        }
    }
}

/// One row of activations, times codes as they are packed.
struct Row<'a, K> {
    packed: &'a [Quads],
    scales: &'a [u8],
    x: RoundedTile<'a, 1>,
    of: PhantomData<K>,
}

impl<S: Integers, K: Quantized> Task<S> for Row<'_, K> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
        let mut results = [simd.splat(0.0)];
        let columns = self.x.quads.iter().zip(self.x.sums).zip(self.x.scales);
        let packed = self.packed.chunks_exact(K::SHAPE.bits);
        for (block, (((quads, sums), scales), packed)) in columns.zip(packed).enumerate() {
            prefetch_ahead(simd, packed);
            let (halves, _) = scales_at(K::SHAPE, block);
            simd.prefetch(self.scales.as_ptr().wrapping_add(halves + SCALES_AHEAD));
            let weights = Weights {
                codes: codes::unpack(simd, K::SHAPE, packed),
                scales: load_scales::<S, K>(simd, self.scales, block),
            };
            add_columns::<S, K, 1>(simd, &weights, (quads, sums, scales), &mut results);
        }
        let [out] = stored(simd, results);
        out
    }
}

/// The panel behind another, which is fetched while that is multiplied with several tiles: in turns, so that memory is
/// never idle.
#[derive(Clone, Copy)]
struct Next<'a> {
    /// Codes of the other panel, behind which its own lie.
    packed: &'a [Quads],
    /// Scales of the other panel.
    scales: &'a [u8],
    /// Which tile is multiplied, and how many there are.
    turn: usize,
    turns: usize,
}

impl Next<'_> {
    /// Asks for what it has for the columns of a block, if it is their turn.
    #[inline(always)]
    fn fetch<S: Simd, K: Quantized>(self, simd: S, block: usize) {
        if block % self.turns != self.turn {
            return;
        }
        let start = self.packed.as_ptr().wrapping_add(self.packed.len() + block * K::SHAPE.bits);
        for vector in 0..K::SHAPE.bits {
            simd.prefetch(start.wrapping_add(vector).cast());
        }
        let (halves, _) = scales_at(K::SHAPE, block);
        simd.prefetch(self.scales.as_ptr().wrapping_add(self.scales.len() + halves));
    }
}

/// Several rows of activations, times codes that are bytes.
struct Tile<'a, K, const P: usize> {
    bytes: &'a [Bytes],
    scales: &'a [u8],
    x: RoundedTile<'a, P>,
    next: Next<'a>,
    of: PhantomData<K>,
}

impl<S: Integers, K: Quantized, const P: usize> Task<S> for Tile<'_, K, P> {
    type Output = [[f32; LANES]; P];

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
        if is_too_wide::<S, P>() {
            return [[0.0; LANES]; P];
        }
        let mut results = [simd.splat(0.0); P];
        let columns = self.x.quads.iter().zip(self.x.sums).zip(self.x.scales);
        for (block, (((quads, sums), scales), bytes)) in columns.zip(self.bytes).enumerate() {
            self.next.fetch::<S, K>(simd, block);
            let weights = Weights {
                codes: [
                    simd.load_bytes(&bytes[0]),
                    simd.load_bytes(&bytes[1]),
                    simd.load_bytes(&bytes[2]),
                    simd.load_bytes(&bytes[3]),
                    simd.load_bytes(&bytes[4]),
                    simd.load_bytes(&bytes[5]),
                    simd.load_bytes(&bytes[6]),
                    simd.load_bytes(&bytes[7]),
                ],
                scales: load_scales::<S, K>(simd, self.scales, block),
            };
            add_columns::<S, K, P>(simd, &weights, (quads, sums, scales), &mut results);
        }
        stored(simd, results)
    }
}

/// Weights of 32 columns.
struct Weights<S: Integers> {
    codes: [S::B; QUADS],
    /// Scales of each half, then minima; the first alone where both share them.
    scales: [[S::F; 2]; 2],
}

/// Adds the products with 32 columns: of quads of codes (QUADS, rows), with their negative sums and scales.
#[inline(always)]
fn add_columns<S: Integers, K: Quantized, const P: usize>(
    simd: S,
    weights: &Weights<S>,
    (quads, sums, scales): (&[[i32; P]; QUADS], &[[i32; P]; 3], &[f32; P]),
    results: &mut [S::F; P],
) {
    let offset = if K::SHAPE.bits == 8 { S::KEY_BIAS_POWER } else { K::SHAPE.offset };
    let mut terms = [simd.splat(0.0); P];
    for group in 0..K::SHAPE.groups {
        let of_group =
            if K::SHAPE.groups == 1 { 0..QUADS } else { QUADS / 2 * group..QUADS / 2 * (group + 1) };
        let sums = &sums[if K::SHAPE.groups == 1 { 0 } else { 1 + group }];
        let mut products = [simd.splat_i32(0); P];
        if let Some(power) = offset {
            for (product, sum) in products.iter_mut().zip(sums) {
                *product = simd.shift_left(simd.splat_i32(*sum), power);
            }
        }
        for quad in of_group {
            if K::SHAPE.bits == 8 {
                simd.dot_keys(&mut products, weights.codes[quad], &quads[quad]);
            } else {
                simd.dot_codes(&mut products, weights.codes[quad], &quads[quad]);
            }
        }
        let [of_scales, minima] = weights.scales;
        for ((term, product), sum) in terms.iter_mut().zip(products).zip(sums) {
            if K::SHAPE.has_min {
                let sum = simd.to_f32(simd.splat_i32(*sum));
                *term = simd.mul_add(minima[group], sum, *term);
            }
            *term = if group == 0 && !K::SHAPE.has_min {
                simd.mul(of_scales[group], simd.to_f32(product))
            } else {
                simd.mul_add(of_scales[group], simd.to_f32(product), *term)
            };
        }
    }
    for ((result, term), scale) in results.iter_mut().zip(terms).zip(scales) {
        *result = simd.mul_add(term, simd.splat(*scale), *result);
    }
}

/// Scales of 32 columns.
#[inline(always)]
fn load_scales<S: Integers, K: Quantized>(simd: S, scales: &[u8], block: usize) -> [[S::F; 2]; 2] {
    let shape = K::SHAPE;
    let (halves, small) = scales_at(shape, block);
    let mut loaded = [[simd.splat(0.0); 2]; 2];
    for (kind, loaded) in loaded.iter_mut().enumerate().take(shape.kinds()) {
        let Some(of_all) = scales[halves + kind * HALVES..].first_chunk() else { continue };
        let of_all = simd.load_f16(of_all);
        for (group, loaded) in loaded.iter_mut().enumerate().take(shape.groups) {
            *loaded = of_all;
            if shape.is_super()
                && let Some(bytes) = scales[small + small_scales_at(shape, kind, group)..].first_chunk()
            {
                *loaded = simd.mul(of_all, simd.load_i8(bytes));
            }
        }
    }
    loaded
}

/// Asks for what comes some way behind these vectors; of this panel, or of the next, which lies behind it.
#[inline(always)]
fn prefetch_ahead<S: Simd>(simd: S, vectors: &[Quads]) {
    for vector in vectors {
        simd.prefetch(vector.as_ptr().wrapping_add(AHEAD));
    }
}

/// 16 bf16.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Bf16s([u8; F16_BYTES * LANES]);

impl Lanes for Bf16s {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S) -> S::F {
        simd.load_bf16(&self.0)
    }
}

/// Rows of activations times numbers.
struct Dense<'a, L, const P: usize> {
    /// For each column.
    numbers: &'a [L],
    x: &'a [[f32; P]],
}

impl<S: Simd, L: Lanes, const P: usize> Task<S> for Dense<'_, L, P> {
    type Output = [[f32; LANES]; P];

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
        if is_too_wide::<S, P>() {
            return [[0.0; LANES]; P];
        }
        let mut results = [simd.splat(0.0); P];
        for (numbers, x) in self.numbers.iter().zip(self.x) {
            simd.prefetch(std::ptr::from_ref(numbers).cast::<u8>().wrapping_add(AHEAD));
            let numbers = numbers.lanes(simd);
            for (result, x) in results.iter_mut().zip(x) {
                *result = simd.mul_add(numbers, simd.splat(*x), *result);
            }
        }
        stored(simd, results)
    }
}
