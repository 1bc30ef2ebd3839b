//! Scores: queries times keys.

use super::buffer::Expanded;
use super::prefetch::Prefetch;
use super::quantized::{ReadQuantized, Reading};
use super::queries::Queries;
use super::{BlockScores, PANEL, ScoresAt};
use crate::format::{BLOCK, F16_BYTES, Format, GROUP, Rows};
use crate::simd::{LANES, Lanes, Simd, Task};

impl Queries {
    /// Scores of all queries for the keys `rows` of `keys`: (queries filled up to panels), from a group on.
    ///
    /// While rows are read, as many of `prefetch` are asked for.
    #[inline(always)]
    pub(crate) fn score<S: ReadQuantized>(
        &self,
        simd: S,
        keys: &Rows<'_>,
        mut prefetch: Prefetch,
        expanded: &mut Expanded,
        at: ScoresAt<'_>,
    ) {
        let ScoresAt { scores, group } = at;
        let layout = keys.layout();
        match layout.format() {
            Format::F32 => self.score_dense::<S, { 4 * LANES }>(simd, keys, prefetch, scores, group),
            Format::F16 => self.score_dense::<S, { F16_BYTES * LANES }>(simd, keys, prefetch, scores, group),
            _ => {
                for (index, block) in keys.units().enumerate() {
                    let group = group + index * BLOCK / GROUP;
                    let reading = Reading { expanded: &mut *expanded, prefetch: &mut prefetch };
                    let at = ScoresAt { scores: &mut *scores, group };
                    if !simd.score_codes(layout, block, &self.codes, reading, at) {
                        simd.expand_keys(layout, block, expanded.floats.as_mut_slice());
                        let (a, b) = expanded.floats.as_slice()[..2 * self.head_dim].split_at(self.head_dim);
                        self.score_pair(simd, [a, b], &mut prefetch, scores, group);
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
        mut prefetch: Prefetch,
        scores: &mut [BlockScores],
        group: usize,
    ) where
        [u8; BYTES]: Lanes,
    {
        let mut units = keys.units().map(|unit| unit.as_chunks::<BYTES>().0);
        let mut group = group;
        while let Some(first) = units.next() {
            match units.next() {
                Some(second) => self.score_pair(simd, [first, second], &mut prefetch, scores, group),
                None => self.score_groups(simd, [first], &mut prefetch, scores, group),
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
        prefetch: &mut Prefetch,
        scores: &mut [BlockScores],
        group: usize,
    ) {
        if S::SUMS_OF_ONE_GROUP {
            self.score_groups(simd, [first], prefetch, scores, group);
            self.score_groups(simd, [second], prefetch, scores, group + 1);
        } else {
            self.score_groups(simd, [first, second], prefetch, scores, group);
        }
    }

    /// Scores for groups of keys, (head_dim) each.
    #[inline(always)]
    fn score_groups<S: Simd, E: Lanes, const GROUPS: usize>(
        &self,
        simd: S,
        keys: [&[E]; GROUPS],
        prefetch: &mut Prefetch,
        scores: &mut [BlockScores],
        group: usize,
    ) {
        prefetch.spread(GROUPS * GROUP, self.head_dim);
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
                    simd.outline(Multiply { keys, panels, prefetch, scores: of_panels, group });
                }
                None => simd.outline(Multiply { keys, panels: [first], prefetch, scores: of_panels, group }),
            }
            // Once is enough.
            prefetch.pause();
        }
    }
}

/// Products of the panels' queries with groups of keys, (head_dim) each, into `scores` (panels, PANEL) from `group`
/// on.
struct Multiply<'a, E, const GROUPS: usize, const PANELS: usize> {
    keys: [&'a [E]; GROUPS],
    panels: [&'a [[f32; PANEL]]; PANELS],
    prefetch: &'a mut Prefetch,
    scores: &'a mut [BlockScores],
    group: usize,
}

impl<S: Simd, E: Lanes, const GROUPS: usize, const PANELS: usize> Task<S>
    for Multiply<'_, E, GROUPS, PANELS>
{
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        let head_dim = self.panels[0].len();
        let keys = self.keys.map(|keys| &keys[..head_dim]);
        let panels = self.panels.map(|panel| &panel[..head_dim]);
        let mut prefetch = *self.prefetch;
        let mut sums = [[[simd.splat(0.0); PANEL]; GROUPS]; PANELS];
        for channel in 0..head_dim {
            prefetch.ask(simd);
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
        *self.prefetch = prefetch;
        for (sums, scores) in sums.iter().zip(self.scores.chunks_exact_mut(PANEL)) {
            for (slot, scores) in scores.iter_mut().enumerate() {
                for (sums, scores) in sums.iter().zip(&mut scores[self.group..]) {
                    simd.store(sums[slot], scores);
                }
            }
        }
    }
}
