//! Scores: queries times keys.

use crate::block::largest_magnitude;
use crate::buffer::Buffer;
use crate::isa::{Isa, Task, dispatch};
use crate::lanes::QUAD;
use crate::layout::{BLOCK, F16_BYTES, Format, GROUP, INT4_CHANNELS, Layout, MAX_HEAD_DIM};
use crate::rows::{Rows, Upcoming};
use crate::simd::{LANES, Lanes, Simd};

/// Stored rows are scored in blocks of this many, counted from the first stored row. Since block
/// borders do not depend on where runs begin, the same dense rows give the same sums in whatever runs they are.
pub const KEY_BLOCK: usize = 128;

/// Queries that are computed together.
pub(crate) const PANEL: usize = 4;

/// Scores or weights of one query for the rows of a block, by groups.
pub(crate) type BlockScores = [[f32; GROUP]; KEY_BLOCK / GROUP];

/// Queries as kernels want them: in panels of [`PANEL`], the last filled up with zeros, channel by channel.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    head_dim: usize,
    /// (panels, head_dim)
    panels: Vec<[f32; PANEL]>,
    codes: Codes,
}

/// The same in whole numbers: a query is its scale times its codes, to a 254th of its largest channel.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    /// (panels, head_dim / 4): four codes each.
    pub(crate) quads: Vec<[i32; PANEL]>,
    /// (panels)
    pub(crate) scales: Vec<[f32; PANEL]>,
    /// (panels, ceil(head_dim / 32)): sums of the codes of 32 channels.
    pub(crate) sums: Vec<[i32; PANEL]>,
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

    /// Scores of all queries for the keys `rows` of `keys`: (queries filled up to panels), from group `group` on.
    ///
    /// While rows are read, as many of `upcoming` are asked for.
    #[inline(always)]
    pub(crate) fn score<S: Simd>(
        &self,
        simd: S,
        keys: &Rows<'_>,
        mut upcoming: Upcoming,
        expanded: &mut Expanded,
        (scores, group): (&mut [BlockScores], usize),
    ) {
        let layout = keys.layout();
        match layout.format() {
            Format::F32 => self.score_dense::<S, { 4 * LANES }>(simd, keys, upcoming, scores, group),
            Format::F16 => self.score_dense::<S, { F16_BYTES * LANES }>(simd, keys, upcoming, scores, group),
            _ => {
                for (index, block) in keys.units().enumerate() {
                    let group = group + index * BLOCK / GROUP;
                    if !simd.score_codes(
                        layout,
                        block,
                        &self.codes,
                        (expanded, &mut upcoming),
                        (scores, group),
                    ) {
                        simd.expand_keys(layout, block, expanded.floats.as_mut_slice());
                        let (a, b) = expanded.floats.as_slice()[..2 * self.head_dim].split_at(self.head_dim);
                        self.score_pair(simd, [a, b], &mut upcoming, scores, group);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn score_dense<S: Simd, const BYTES: usize>(
        &self,
        simd: S,
        keys: &Rows<'_>,
        mut upcoming: Upcoming,
        scores: &mut [BlockScores],
        group: usize,
    ) where
        [u8; BYTES]: Lanes,
    {
        let mut units = keys.units().map(|unit| unit.as_chunks::<BYTES>().0);
        let mut group = group;
        while let Some(first) = units.next() {
            match units.next() {
                Some(second) => self.score_pair(simd, [first, second], &mut upcoming, scores, group),
                None => self.score_groups(simd, [first], &mut upcoming, scores, group),
            }
            group += 2;
        }
    }

    /// Scores for two groups of keys, (head_dim) each.
    #[inline(always)]
    fn score_pair<S: Simd, E: Lanes>(
        &self,
        simd: S,
        [first, second]: [&[E]; 2],
        upcoming: &mut Upcoming,
        scores: &mut [BlockScores],
        group: usize,
    ) {
        if S::SUMS_OF_ONE_GROUP {
            self.score_groups(simd, [first], upcoming, scores, group);
            self.score_groups(simd, [second], upcoming, scores, group + 1);
        } else {
            self.score_groups(simd, [first, second], upcoming, scores, group);
        }
    }

    /// Scores for groups of keys, (head_dim) each.
    #[inline(always)]
    fn score_groups<S: Simd, E: Lanes, const GROUPS: usize>(
        &self,
        simd: S,
        keys: [&[E]; GROUPS],
        upcoming: &mut Upcoming,
        scores: &mut [BlockScores],
        group: usize,
    ) {
        upcoming.spread(GROUPS * GROUP, self.head_dim);
        let keys = keys.map(|keys| &keys[..self.head_dim]);
        let mut panels = self.panels();
        let mut scores = scores;
        while let Some(first) = panels.next() {
            // Two panels at once keep the multipliers busy.
            let second = if S::MANY_REGISTERS { panels.next() } else { None };
            let (of_panels, rest) = scores.split_at_mut(if second.is_some() { 2 * PANEL } else { PANEL });
            scores = rest;
            match second {
                Some(second) => {
                    let panels = [first, second];
                    simd.outline(Multiply { keys, panels, upcoming, scores: of_panels, group });
                }
                None => simd.outline(Multiply { keys, panels: [first], upcoming, scores: of_panels, group }),
            }
            // Once is enough.
            upcoming.pause();
        }
    }
}

/// Products of the panels' queries with groups of keys, (head_dim) each, into `scores` (panels, PANEL) from `group`
/// on.
struct Multiply<'a, E, const GROUPS: usize, const PANELS: usize> {
    keys: [&'a [E]; GROUPS],
    panels: [&'a [[f32; PANEL]]; PANELS],
    upcoming: &'a mut Upcoming,
    scores: &'a mut [BlockScores],
    group: usize,
}

impl<E: Lanes, const GROUPS: usize, const PANELS: usize> Task for Multiply<'_, E, GROUPS, PANELS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.panels[0].len();
        let keys = self.keys.map(|keys| &keys[..head_dim]);
        let panels = self.panels.map(|panel| &panel[..head_dim]);
        let mut upcoming = *self.upcoming;
        let mut sums = [[[simd.splat(0.0); PANEL]; GROUPS]; PANELS];
        for channel in 0..head_dim {
            upcoming.ask(simd);
            let mut vectors = [simd.splat(0.0); GROUPS];
            for group in 0..GROUPS {
                vectors[group] = keys[group][channel].lanes(simd);
            }
            for (sums, panel) in sums.iter_mut().zip(&panels) {
                for slot in 0..PANEL {
                    let query = simd.splat(panel[channel][slot]);
                    for group in 0..GROUPS {
                        sums[group][slot] = simd.mul_add(vectors[group], query, sums[group][slot]);
                    }
                }
            }
        }
        *self.upcoming = upcoming;
        for (sums, scores) in sums.iter().zip(self.scores.chunks_exact_mut(PANEL)) {
            for (slot, scores) in scores.iter_mut().enumerate() {
                for (sums, scores) in sums.iter().zip(&mut scores[self.group..]) {
                    simd.store(sums[slot], scores);
                }
            }
        }
    }
}

/// [`Queries::set`], compiled for each instruction set.
struct SetQueries<'a> {
    queries: &'a [f32],
    with_codes: bool,
    to: &'a mut Queries,
}

impl Task for SetQueries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (queries, head_dim) = (self.queries, self.to.head_dim);
        let panels = (queries.len() / head_dim).div_ceil(PANEL);
        let by_panel = fill(&mut self.to.panels, panels * head_dim, [0.0; PANEL]).chunks_exact_mut(head_dim);
        for (panel, queries) in by_panel.zip(queries.chunks(PANEL * head_dim)) {
            for (slot, query) in queries.chunks_exact(head_dim).enumerate() {
                panel.iter_mut().zip(query).for_each(|(channel, value)| channel[slot] = *value);
            }
        }
        let (quads, sums) = (head_dim / QUAD, head_dim.div_ceil(INT4_CHANNELS));
        let panels = if self.with_codes { panels } else { 0 };
        let codes = &mut self.to.codes;
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
                for (codes, to) in codes.chunks(INT4_CHANNELS).zip(&mut all_sums[panel * sums..]) {
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

/// Room for a block that was read from its packed form.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    /// Keys (2 groups, head_dim), values (BLOCK, head_dim / 16).
    pub(crate) floats: Buffer<[f32; LANES]>,
    /// Elements of up to [`KEY_BLOCK`] rows in lane order, a byte each: 16 lanes of four.
    pub(crate) codes: Buffer<[u8; QUAD * LANES]>,
}

impl Expanded {
    /// Makes room for a block of rows of `layout` in f32, and [`KEY_BLOCK`] of them in codes.
    pub(crate) fn reserve(&mut self, layout: &Layout) {
        let vectors = BLOCK * layout.head_dim().div_ceil(LANES);
        self.floats.reserve(vectors);
        self.codes.reserve(KEY_BLOCK / QUAD * layout.head_dim().div_ceil(LANES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Side;
    use crate::select::{Fill, KeptFormat, Levels, Packing};
    use crate::weigh::Weighing;

    const HEAD_DIMS: [usize; 8] = [8, 16, 24, 48, 64, 80, 128, 512];

    fn formats(head_dim: usize) -> Vec<Format> {
        let mut formats = vec![Format::F32, Format::F16, Format::Int8, Format::Int4];
        for values in [KeptFormat::F32, KeptFormat::F16, KeptFormat::Int8] {
            for levels in [Levels::One, Levels::Two] {
                let fill = Fill::MeanMagnitude;
                formats.push(Format::Packed(Packing { kept: head_dim / 3, values, fill, levels }));
            }
        }
        formats
    }

    /// Rows as they are stored, and as they decode.
    fn store(layout: Layout, len: usize) -> (Vec<u8>, Vec<f32>) {
        let head_dim = layout.head_dim();
        let rows: Vec<f32> =
            (0..len * head_dim).map(|i| ((i * 7919) % 10007) as f32 / 5000.0 - 1.0).collect();
        let mut bytes = vec![0; layout.bytes(len)];
        if layout.is_quantized() {
            let blocks = rows.chunks(BLOCK * head_dim).zip(bytes.chunks_mut(layout.unit_bytes()));
            blocks.for_each(|(rows, bytes)| crate::quantize(&layout, rows, bytes));
        } else {
            let rows = rows.chunks(head_dim).enumerate();
            rows.for_each(|(index, row)| crate::dense::write_row(&layout, row, &mut bytes, index));
        }
        let decoded = Rows::new(layout, &bytes, len).decode();
        (bytes, decoded)
    }

    struct Score<'a>(&'a Queries, Rows<'a>, &'a mut [BlockScores]);

    impl Task for Score<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let mut expanded = Expanded::default();
            expanded.reserve(self.1.layout());
            self.0.score(simd, &self.1, Upcoming::NONE, &mut expanded, (self.2, 0));
        }
    }

    /// Queries that rounding to whole numbers leaves as they are, so that integer products must be exact, too.
    #[test]
    fn scores_of_whole_queries_are_exact() {
        for head_dim in HEAD_DIMS {
            let query = |index: usize, channel: usize| ((index + channel * 89) % 255) as f32 - 127.0;
            let queries: Vec<f32> = (0..5 * head_dim)
                .map(|i| if i % head_dim == 1 { -127.0 } else { query(i / head_dim, i % head_dim) })
                .collect();
            for format in formats(head_dim) {
                let layout = Layout::new(Side::Keys, head_dim, format).unwrap();
                let (bytes, keys) = store(layout, KEY_BLOCK);
                for isa in Isa::available() {
                    let mut panels = Queries::default();
                    panels.set(isa, &queries, head_dim, true);
                    let mut scores = vec![[[f32::NAN; GROUP]; KEY_BLOCK / GROUP]; 2 * PANEL];
                    dispatch(isa, Score(&panels, Rows::new(layout, &bytes, KEY_BLOCK), &mut scores));
                    for (query, scores) in queries.chunks(head_dim).zip(&scores) {
                        for (key, score) in keys.chunks(head_dim).zip(scores.as_flattened()) {
                            let products = key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q));
                            let expected: f64 = products.clone().sum();
                            let tolerance = 1e-6 * products.map(f64::abs).sum::<f64>();
                            let off = (f64::from(*score) - expected).abs();
                            assert!(off <= tolerance, "{score} for {expected}: {}, {layout:?}", isa.name());
                        }
                    }
                }
            }
        }
    }

    struct Weigh<'a>(&'a [BlockScores], Rows<'a>, &'a mut [[f32; LANES]]);

    impl Task for Weigh<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let mut expanded = Expanded::default();
            expanded.reserve(self.1.layout());
            let (values, expanded, weights) = (&self.1, &mut expanded, (self.0, 0));
            Weighing { values, upcoming: Upcoming::NONE, expanded, weights, sums: self.2 }.add(simd);
        }
    }

    /// One weight alone is the largest, which is not rounded.
    #[test]
    fn values_by_one_weight_are_exact() {
        for head_dim in HEAD_DIMS {
            let vectors = head_dim.div_ceil(LANES);
            for format in formats(head_dim) {
                let layout = Layout::new(Side::Values, head_dim, format).unwrap();
                let (bytes, values) = store(layout, KEY_BLOCK);
                // A token for each query.
                let tokens = [0, 13, 31, 32, 77, 127, 96, 50];
                let mut weights = vec![[[0.0; GROUP]; KEY_BLOCK / GROUP]; 2 * PANEL];
                weights.iter_mut().zip(tokens).for_each(|(w, token)| w.as_flattened_mut()[token] = 0.75);
                for isa in Isa::available() {
                    let mut sums = vec![[1.0; LANES]; 2 * PANEL * vectors];
                    dispatch(isa, Weigh(&weights, Rows::new(layout, &bytes, KEY_BLOCK), &mut sums));
                    for (sums, token) in sums.chunks(vectors).zip(tokens) {
                        let row = &values[token * head_dim..][..head_dim];
                        for (sum, value) in sums.as_flattened().iter().zip(row) {
                            let expected = 1.0 + 0.75 * value;
                            let off = (sum - expected).abs();
                            assert!(off < 1e-5, "{sum} for {expected}: {}, {layout:?}", isa.name());
                        }
                    }
                }
            }
        }
    }
}
