//! Queries as kernels want them.

use super::PANEL;
use crate::format::lanes::QUAD;
use crate::format::quantized::largest_magnitude;
use crate::format::{MAX_HEAD_DIM, SET, Widths};
use crate::simd::{Isa, Task, dispatch};

/// Queries in panels of [`PANEL`], the last filled up with zeros, channel by channel.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    pub(super) head_dim: usize,
    /// (panels, head_dim)
    panels: Vec<[f32; PANEL]>,
    pub(super) codes: QueryCodes,
}

/// The same in whole numbers: a query is its scale times its codes, to a 254th of its largest channel.
#[derive(Debug, Default)]
pub(crate) struct QueryCodes {
    pub(crate) head_dim: usize,
    /// (panels, head_dim / 4): four codes each.
    quads: Vec<[i32; PANEL]>,
    /// (panels)
    scales: Vec<[f32; PANEL]>,
    /// (panels, head_dim / 8): sums of the codes of a set of channels.
    sums: Vec<[i32; PANEL]>,
}

/// The whole numbers of a panel's queries.
pub(crate) struct PanelCodes<'a> {
    /// (head_dim / 4): four codes each.
    pub(crate) quads: &'a [[i32; PANEL]],
    /// (head_dim / 8): sums of the codes of a set of channels.
    pub(crate) sums: &'a [[i32; PANEL]],
    pub(crate) scales: &'a [f32; PANEL],
}

impl QueryCodes {
    /// Panels there are.
    pub(crate) fn panels(&self) -> impl Iterator<Item = PanelCodes<'_>> {
        let (quads, sums) = (self.head_dim / QUAD, self.head_dim / SET);
        let panels = self.quads.chunks_exact(quads).zip(self.sums.chunks_exact(sums));
        panels.zip(&self.scales).map(|((quads, sums), scales)| PanelCodes { quads, sums, scales })
    }
}

impl Queries {
    /// Takes `queries` (n, head_dim), in whole numbers too where `with_codes`.
    pub(crate) fn set(&mut self, isa: Isa, queries: &[f32], head_dim: usize, with_codes: bool) {
        self.head_dim = head_dim;
        dispatch(isa, SetQueries { queries, with_codes, to: self });
    }

    /// Panels there are.
    pub(crate) fn panels(&self) -> std::slice::ChunksExact<'_, [f32; PANEL]> {
        self.panels.chunks_exact(self.head_dim)
    }
}

/// What products with odd numbers lack of twice those with their codes: for each query of a panel, given the `sums` of its
/// codes by sets.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn odd_offsets(sums: &[[i32; PANEL]], widths: &Widths) -> [i32; PANEL] {
    let mut offsets = [0; PANEL];
    for section in widths.sections() {
        let sets = section.first / SET..(section.first + section.channels) / SET;
        for sums in &sums[sets] {
            offsets.iter_mut().zip(sums).for_each(|(offset, sum)| *offset -= section.largest() * sum);
        }
    }
    offsets
}

/// [`Queries::set`], compiled for each instruction set.
struct SetQueries<'a> {
    queries: &'a [f32],
    with_codes: bool,
    to: &'a mut Queries,
}

impl<S> Task<S> for SetQueries<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: S) {
        let (queries, head_dim) = (self.queries, self.to.head_dim);
        let panels = (queries.len() / head_dim).div_ceil(PANEL);
        let by_panel = fill(&mut self.to.panels, panels * head_dim, [0.0; PANEL]).chunks_exact_mut(head_dim);
        for (panel, queries) in by_panel.zip(queries.chunks(PANEL * head_dim)) {
            for (slot, query) in queries.chunks_exact(head_dim).enumerate() {
                panel.iter_mut().zip(query).for_each(|(channel, value)| channel[slot] = *value);
            }
        }
        let (quads, sums) = (head_dim / QUAD, head_dim / SET);
        let panels = if self.with_codes { panels } else { 0 };
        let codes = &mut self.to.codes;
        codes.head_dim = head_dim;
        let all_quads = fill(&mut codes.quads, panels * quads, [0; PANEL]);
        let all_sums = fill(&mut codes.sums, panels * sums, [0; PANEL]);
        let scales = fill(&mut codes.scales, panels, [0.0; PANEL]);
        for (panel, queries) in queries.chunks(PANEL * head_dim).take(panels).enumerate() {
            for (slot, query) in queries.chunks_exact(head_dim).enumerate() {
                let mut codes = [0i8; MAX_HEAD_DIM];
                let codes = &mut codes[..head_dim];
                scales[panel][slot] = quantize_row(query, codes);
                for (quad, to) in codes.as_chunks().0.iter().zip(&mut all_quads[panel * quads..]) {
                    to[slot] = i32::from_le_bytes(quad.map(i8::cast_unsigned));
                }
                for (codes, to) in codes.chunks(SET).zip(&mut all_sums[panel * sums..]) {
                    to[slot] = codes.iter().map(|code| i32::from(*code)).sum();
                }
            }
        }
    }
}

/// Makes `vec` a run of `value`.
fn fill<T: Copy>(vec: &mut Vec<T>, len: usize, value: T) -> &mut [T] {
    vec.clear();
    vec.resize(len, value);
    vec
}

/// Whole numbers for the values of `row`, and what they count: a 127th of the largest.
#[inline(always)]
fn quantize_row(row: &[f32], codes: &mut [i8]) -> f32 {
    let scale = largest_magnitude(row) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut unknown = 0.0;
    for (code, value) in codes.iter_mut().zip(row) {
        // Adding 1.5 * 2^23 leaves no room for fractions: rounds to even.
        const ROUND: f32 = 12_582_912.0;
        let rounded = (value * inverse + ROUND) - ROUND;
        *code = rounded as i32 as i8;
        // NaN where the value is, for it must not pass for a zero; else 0.
        unknown += value * 0.0;
    }
    scale + unknown
}
