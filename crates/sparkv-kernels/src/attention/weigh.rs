//! Weighted sums of values.

use super::buffer::Expanded;
use super::prefetch::Prefetch;
use super::quantized::{ReadQuantized, Reading};
use super::{PANEL, WeightsAt};
use crate::format::{BLOCK, F16_BYTES, Format, GROUP, Rows};
use crate::simd::{LANES, Lanes, Simd, Task, load_all};

/// Rows of values to be added up by their weights.
pub(super) struct Weighing<'a, 'v> {
    pub(super) values: &'a Rows<'v>,
    /// Asked for while rows are read, as many as those.
    pub(super) prefetch: Prefetch,
    pub(super) expanded: &'a mut Expanded,
    pub(super) at: WeightsAt<'a>,
    /// (queries filled up to panels, ceil(head_dim / 16)): what is added to.
    pub(super) sums: &'a mut [[f32; LANES]],
}

impl Weighing<'_, '_> {
    /// Adds the rows.
    #[inline(always)]
    pub(super) fn add<S: ReadQuantized>(mut self, simd: S) {
        match self.values.layout().format() {
            Format::F32 => self.add_dense::<S, { 4 * LANES }>(simd),
            Format::F16 => self.add_dense::<S, { F16_BYTES * LANES }>(simd),
            _ => self.add_quantized(simd),
        }
    }

    #[inline(always)]
    fn add_quantized<S: ReadQuantized>(&mut self, simd: S) {
        let Self { values, prefetch, expanded, at, sums } = self;
        if simd.weigh_codes(values, *at, Reading { expanded, prefetch }, sums) {
            return;
        }
        let layout = values.layout();
        let vectors = layout.head_dim().div_ceil(LANES);
        for (index, block) in values.units().enumerate() {
            simd.expand_values(layout, block, expanded.floats.as_mut_slice());
            let rows = &expanded.floats.as_slice()[..BLOCK * vectors];
            let at = WeightsAt { group: at.group + index * BLOCK / GROUP, ..*at };
            weigh_rows(simd, rows, vectors, prefetch, at, sums);
        }
    }

    #[inline(always)]
    fn add_dense<S: Simd, const BYTES: usize>(&mut self, simd: S)
    where
        [u8; BYTES]: Lanes,
    {
        let Self { values, prefetch, expanded, at, sums } = self;
        let head_dim = values.layout().head_dim();
        let vectors = head_dim.div_ceil(LANES);
        for (index, unit) in values.units().enumerate() {
            // Rows behind the last one may hold anything.
            let rows = GROUP.min(values.len() - index * GROUP);
            let at = WeightsAt { group: at.group + index, ..*at };
            if head_dim.is_multiple_of(LANES) {
                let rows = &unit.as_chunks::<BYTES>().0[..rows * vectors];
                weigh_rows(simd, rows, vectors, prefetch, at, sums);
                continue;
            }
            // Rows that are not whole vectors are filled up.
            let row_bytes = BYTES / LANES * head_dim;
            let filled = &mut expanded.floats.as_mut_slice()[..rows * vectors];
            for (row, filled) in unit.chunks_exact(row_bytes).zip(filled.chunks_exact_mut(vectors)) {
                for (bytes, filled) in row.chunks(BYTES).zip(filled) {
                    let mut padded = [0; BYTES];
                    padded[..bytes.len()].copy_from_slice(bytes);
                    simd.store(padded.lanes(simd), filled);
                }
            }
            weigh_rows(simd, &*filled, vectors, prefetch, at, sums);
        }
    }
}

/// Adds `rows` (up to BLOCK, vectors) by their weights.
#[inline(always)]
fn weigh_rows<S: Simd, E: Lanes>(
    simd: S,
    rows: &[E],
    vectors: usize,
    prefetch: &mut Prefetch,
    at: WeightsAt<'_>,
    sums: &mut [[f32; LANES]],
) {
    let width = if S::MANY_REGISTERS { 4 } else { 1 };
    prefetch.spread(rows.len() / vectors, rows.len() / vectors * vectors.div_ceil(width));
    let panels = at.weights.chunks_exact(PANEL).zip(sums.chunks_exact_mut(PANEL * vectors));
    for (weights, sums) in panels {
        let weights: [&[f32]; PANEL] = std::array::from_fn(|slot| weights[slot][at.group..].as_flattened());
        let mut first = 0;
        if S::MANY_REGISTERS {
            while first + 4 <= vectors {
                simd.outline(AddRows::<E, 4> { rows, vectors, first, prefetch, weights, sums });
                first += 4;
            }
        }
        while first < vectors {
            simd.outline(AddRows::<E, 1> { rows, vectors, first, prefetch, weights, sums });
            first += 1;
        }
        // Once is enough.
        prefetch.pause();
    }
}

/// Adds `VECTORS` vectors from `first` on of every row to the sums (PANEL, vectors) of a panel's queries.
struct AddRows<'a, E, const VECTORS: usize> {
    /// (rows, vectors)
    rows: &'a [E],
    vectors: usize,
    first: usize,
    prefetch: &'a mut Prefetch,
    weights: [&'a [f32]; PANEL],
    sums: &'a mut [[f32; LANES]],
}

impl<S: Simd, E: Lanes, const VECTORS: usize> Task<S> for AddRows<'_, E, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let Self { rows, vectors, first, prefetch, weights, sums } = self;
        let count = rows.len() / vectors;
        let weights = weights.map(|weights| &weights[..count]);
        let mut asking = *prefetch;
        let mut acc = [[simd.splat(0.0); VECTORS]; PANEL];
        for (acc, sums) in acc.iter_mut().zip(sums.chunks_exact(vectors)) {
            if let Some(sums) = sums[first..].first_chunk() {
                *acc = load_all(simd, sums);
            }
        }
        for (index, row) in rows.chunks_exact(vectors).enumerate() {
            asking.ask(simd);
            let Some(row) = row[first..].first_chunk() else { continue };
            let row: [S::F; VECTORS] = load_all(simd, row);
            for slot in 0..PANEL {
                let weight = simd.splat(weights[slot][index]);
                for vector in 0..VECTORS {
                    acc[slot][vector] = simd.mul_add(row[vector], weight, acc[slot][vector]);
                }
            }
        }
        *prefetch = asking;
        for (acc, sums) in acc.into_iter().zip(sums.chunks_exact_mut(vectors)) {
            for (acc, sums) in acc.into_iter().zip(&mut sums[first..]) {
                simd.store(acc, sums);
            }
        }
    }
}
