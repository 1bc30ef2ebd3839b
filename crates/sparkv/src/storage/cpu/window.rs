//! The observation window: what the prompt's last queries say of channels and tokens.

use sparkv_kernels::{KEY_BLOCK, TileScratch, score_rows, softmax_weight};

use super::row_store::RowStore;
use crate::settings::QueryStatistic;

/// Keys that are scored together.
const SCORED_KEYS: usize = 2 * KEY_BLOCK;

/// The last queries of a prompt, after RoPE and times the attention scale, of all query heads of a layer.
#[derive(Debug)]
pub(crate) struct ObservationWindow {
    /// (slots, query_heads * head_dim), used as a ring.
    rows: Vec<f32>,
    slots: usize,
    row_len: usize,
    head_dim: usize,
    /// The first position whose query was seen.
    first: usize,
    /// The position of the next query; the last `slots` before it are held.
    seen: usize,
}

impl ObservationWindow {
    /// A window of the last `slots` positions of a prompt whose queries are seen from position `first` on, at
    /// least that many.
    pub(crate) fn starting_at(first: usize, slots: usize, query_heads: usize, head_dim: usize) -> Self {
        let row_len = query_heads * head_dim;
        Self { rows: vec![0.0; slots * row_len], slots, row_len, head_dim, first, seen: first }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.rows[..])
    }

    /// Takes the queries of further positions, (tokens, query_heads * head_dim), times `scale`.
    pub(crate) fn push(&mut self, queries: &[f32], scale: f32) {
        let tokens = queries.len() / self.row_len;
        let skipped = tokens.saturating_sub(self.slots);
        self.seen += skipped;
        for query in queries.chunks_exact(self.row_len).skip(skipped) {
            let slot = self.seen % self.slots;
            for (held, query) in self.rows[slot * self.row_len..].iter_mut().zip(query) {
                *held = query * scale;
            }
            self.seen += 1;
        }
    }

    /// Position and queries (query_heads * head_dim) of each held position, oldest first.
    fn positions(&self) -> impl Iterator<Item = (usize, &[f32])> {
        (self.seen.saturating_sub(self.slots).max(self.first)..self.seen).map(|position| {
            let slot = position % self.slots;
            (position, &self.rows[slot * self.row_len..(slot + 1) * self.row_len])
        })
    }

    /// Position and query (head_dim) of each held position and query head of the group of `kv_head`.
    fn group_queries(&self, kv_head: usize, group: usize) -> impl Iterator<Item = (usize, &[f32])> {
        let heads = kv_head * group * self.head_dim..(kv_head + 1) * group * self.head_dim;
        self.positions().flat_map(move |(position, row)| {
            row[heads.clone()].chunks_exact(self.head_dim).map(move |query| (position, query))
        })
    }

    /// n: the L2 norm of each query channel (head_dim) over the window, for the `group` heads of `kv_head`.
    ///
    /// Other devices give the same to the last bit, by the same operations on f32, none of them fused: a sum starts from
    /// 0 and takes the positions in order, and of each its heads in order, q * q each; or their mean's square, which is
    /// the sum of the heads in order, from 0, divided by how many they are. n is its root.
    pub(crate) fn query_energy(&self, kv_head: usize, group: usize, statistic: QueryStatistic) -> Vec<f32> {
        let mut squares = vec![0f32; self.head_dim];
        let mut add = |query: &[f32]| squares.iter_mut().zip(query).for_each(|(sum, q)| *sum += q * q);
        match statistic {
            QueryStatistic::Rms => {
                self.group_queries(kv_head, group).for_each(|(_, query)| add(query));
            }
            QueryStatistic::Mean => {
                let queries: Vec<&[f32]> =
                    self.group_queries(kv_head, group).map(|(_, query)| query).collect();
                let mut mean = vec![0f32; self.head_dim];
                for heads in queries.chunks_exact(group) {
                    mean.fill(0.0);
                    for head in heads {
                        mean.iter_mut().zip(*head).for_each(|(sum, q)| *sum += q);
                    }
                    mean.iter_mut().for_each(|sum| *sum /= group as f32);
                    add(&mean);
                }
            }
        }
        squares.into_iter().map(f32::sqrt).collect()
    }

    /// How much attention each of the stored prompt tokens gets from the window: the softmax of every held
    /// query over the keys at or before it, summed. `keys` holds the prompt's tokens in order.
    pub(crate) fn attention_mass(&self, kv_head: usize, group: usize, keys: &RowStore) -> Vec<f32> {
        let mut positions = Vec::new();
        let mut queries = Vec::new();
        for (position, query) in self.group_queries(kv_head, group) {
            positions.push(position);
            queries.extend_from_slice(query);
        }
        attention_mass(&queries, &positions, keys)
    }
}

/// The softmax of each of `queries` (positions.len(), head_dim) over the keys up to its position, summed over the
/// queries: (keys). Two passes over the keys, so that scores are not held for all of them.
pub(crate) fn attention_mass(queries: &[f32], positions: &[usize], keys: &RowStore) -> Vec<f32> {
    let mut max = vec![f32::NEG_INFINITY; positions.len()];
    let mut sum = vec![0f32; positions.len()];
    for_each_score(queries, positions, keys, |query, _, scores| {
        let block_max = scores.iter().copied().fold(max[query], f32::max);
        let rescaled = sum[query] * softmax_weight(max[query], block_max);
        sum[query] = rescaled + scores.iter().map(|score| softmax_weight(*score, block_max)).sum::<f32>();
        max[query] = block_max;
    });
    let mut mass = vec![0f32; keys.len()];
    for_each_score(queries, positions, keys, |query, first, scores| {
        for (mass, score) in mass[first..].iter_mut().zip(scores) {
            *mass += softmax_weight(*score, max[query]) / sum[query];
        }
    });
    mass
}

/// Calls `visit` with a query's number, the index of a first key, and the scores of the keys from there on that
/// the query sees: those up to its position. `queries`: (positions.len(), head_dim).
fn for_each_score(
    queries: &[f32],
    positions: &[usize],
    keys: &RowStore,
    mut visit: impl FnMut(usize, usize, &[f32]),
) {
    let mut scores = vec![0f32; positions.len() * SCORED_KEYS];
    let mut scratch = TileScratch::default();
    let mut first = 0;
    for run in keys.runs() {
        for block in run.chunks(SCORED_KEYS) {
            let scores = &mut scores[..positions.len() * block.len()];
            score_rows(queries, &block, scores, &mut scratch);
            for (query, (scores, position)) in scores.chunks_exact(block.len()).zip(positions).enumerate() {
                let seen = (position + 1).saturating_sub(first).min(scores.len());
                if seen > 0 {
                    visit(query, first, &scores[..seen]);
                }
            }
            first += block.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kv_rows::KvRows;
    use super::*;
    use crate::plan::growth::{Growth, Limit};
    use crate::pool::KvPool;
    use sparkv_kernels::{Format, Layout, Side};

    fn window(slots: usize, rows: &[[f32; 16]]) -> ObservationWindow {
        let mut window = ObservationWindow::starting_at(0, slots, 2, 8);
        rows.iter().for_each(|row| window.push(row, 1.0));
        window
    }

    #[test]
    fn only_the_last_queries_are_held_however_they_arrive() {
        let rows: Vec<[f32; 16]> = (0..10).map(|i| [i as f32; 16]).collect();
        let one_by_one = window(4, &rows);
        let mut at_once = ObservationWindow::starting_at(0, 4, 2, 8);
        at_once.push(rows.as_flattened(), 1.0);
        for window in [&one_by_one, &at_once] {
            let held: Vec<(usize, f32)> = window.positions().map(|(p, row)| (p, row[0])).collect();
            assert_eq!(held, [(6, 6.0), (7, 7.0), (8, 8.0), (9, 9.0)]);
        }
    }

    #[test]
    fn opposite_heads_cancel_in_the_mean_but_not_in_the_rms() {
        let mut row = [3.0; 16];
        row[8..].fill(-3.0);
        let window = window(4, &[row]);
        assert_eq!(window.query_energy(0, 2, QueryStatistic::Mean), vec![0.0; 8]);
        assert_eq!(window.query_energy(0, 2, QueryStatistic::Rms), vec![18f32.sqrt(); 8]);
        assert_eq!(window.query_energy(1, 1, QueryStatistic::Mean), vec![3.0; 8]);
    }

    #[test]
    fn attention_mass_is_a_causal_softmax() {
        let layout = |side| Layout::new(side, 8, Format::F32).unwrap();
        let mut rows = KvRows::new(
            layout(Side::Keys),
            layout(Side::Values),
            Growth::Share,
            Limit::NONE,
            &KvPool::default(),
        );
        for i in 0..6 {
            rows.push(&[i as f32 * 0.1; 8], &[0.0; 8]);
        }
        let queries: Vec<[f32; 16]> = (0..6).map(|i| [0.3 * i as f32; 16]).collect();
        let mass = window(2, &queries).attention_mass(1, 1, &rows.keys);
        let mut expected = [0f64; 6];
        for position in [4usize, 5] {
            let weights: Vec<f64> =
                (0..=position).map(|i| (8.0 * 0.3 * position as f64 * 0.1 * i as f64).exp()).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().zip(&mut expected).for_each(|(w, e)| *e += w / sum);
        }
        for (mass, expected) in mass.iter().zip(expected) {
            assert!((f64::from(*mass) - expected).abs() < 1e-5, "{mass} for {expected}");
        }
    }
}
