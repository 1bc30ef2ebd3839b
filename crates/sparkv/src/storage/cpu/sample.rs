//! A sample of all of a prompt's queries: what may be asked of its tokens, whatever it asks last.

use super::kv_rows::KvRows;
use super::window::attention_mass;
use crate::plan::MAX_SAMPLE;

/// Queries whose scores are held at a time.
const SCORED_QUERIES: usize = 64;

/// Every query of a prompt, or every second, fourth, ...: between half of [`MAX_SAMPLE`] and all of it once there are
/// that many. After RoPE and times the attention scale, of all query heads of a layer.
#[derive(Debug)]
pub(crate) struct QuerySample {
    /// (held, query_heads * head_dim): those of positions 0, stride, 2 * stride, ...
    rows: Vec<f32>,
    row_len: usize,
    head_dim: usize,
    stride: usize,
    /// Queries seen.
    seen: usize,
}

impl QuerySample {
    /// An empty sample, with room for the queries of `positions` positions.
    pub(crate) fn new(positions: usize, query_heads: usize, head_dim: usize) -> Self {
        let row_len = query_heads * head_dim;
        let rows = Vec::with_capacity(positions.min(MAX_SAMPLE) * row_len);
        Self { rows, row_len, head_dim, stride: 1, seen: 0 }
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<f32>()
    }

    /// Takes the queries of further positions, (tokens, query_heads * head_dim), times `scale`.
    pub(crate) fn push(&mut self, queries: &[f32], scale: f32) {
        for query in queries.chunks_exact(self.row_len) {
            if self.seen.is_multiple_of(self.stride) {
                if self.rows.len() == MAX_SAMPLE * self.row_len {
                    self.halve();
                }
                // Its turn may have passed with the stride that held before.
                if self.seen.is_multiple_of(self.stride) {
                    self.rows.extend(query.iter().map(|q| q * scale));
                }
            }
            self.seen += 1;
        }
    }

    /// Forgets every second query.
    fn halve(&mut self) {
        let held = self.rows.len() / self.row_len;
        for row in 1..held.div_ceil(2) {
            let from = 2 * row * self.row_len;
            self.rows.copy_within(from..from + self.row_len, row * self.row_len);
        }
        self.rows.truncate(held.div_ceil(2) * self.row_len);
        self.stride *= 2;
    }

    /// What each token of the prompt is expected to contribute to attention (tokens): the weight that it gets from
    /// the sampled queries of the `group` heads of `kv_head`, summed, times the length of its value. `prompt` holds
    /// all its tokens in order.
    ///
    /// Each query looks at all tokens, those behind its own included, as one to come would.
    pub(crate) fn expected_attention(&self, kv_head: usize, group: usize, prompt: &KvRows) -> Vec<f32> {
        let heads = kv_head * group * self.head_dim..(kv_head + 1) * group * self.head_dim;
        let last = vec![prompt.len().saturating_sub(1); SCORED_QUERIES * group];
        let mut expected = vec![0f32; prompt.len()];
        let mut queries = Vec::with_capacity(last.len() * self.head_dim);
        for rows in self.rows.chunks(SCORED_QUERIES * self.row_len) {
            queries.clear();
            rows.chunks_exact(self.row_len).for_each(|row| queries.extend_from_slice(&row[heads.clone()]));
            let mass = attention_mass(&queries, &last[..queries.len() / self.head_dim], &prompt.keys);
            expected.iter_mut().zip(mass).for_each(|(sum, mass)| *sum += mass);
        }
        let mut values = prompt.values.reader();
        for (index, expected) in expected.iter_mut().enumerate() {
            *expected *= values.row(index).iter().map(|v| v * v).sum::<f32>().sqrt();
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::growth::{Growth, Limit};
    use crate::pool::KvPool;
    use sparkv_kernels::{Format, Layout, Side};

    fn numbered(tokens: usize) -> Vec<f32> {
        (0..tokens).flat_map(|token| [token as f32; 8]).collect()
    }

    #[test]
    fn samples_are_spread_evenly_and_bounded_however_they_arrive() {
        for (tokens, stride) in
            [(1, 1), (MAX_SAMPLE, 1), (MAX_SAMPLE + 1, 2), (2 * MAX_SAMPLE, 2), (5 * MAX_SAMPLE + 7, 8)]
        {
            let mut at_once = QuerySample::new(tokens, 1, 8);
            at_once.push(&numbered(tokens), 2.0);
            let mut in_pieces = QuerySample::new(tokens, 1, 8);
            numbered(tokens).chunks(24).for_each(|queries| in_pieces.push(queries, 2.0));
            assert_eq!(at_once.rows, in_pieces.rows);
            let held: Vec<f32> = at_once.rows.iter().step_by(8).copied().collect();
            let expected: Vec<f32> = (0..tokens).step_by(stride).map(|token| 2.0 * token as f32).collect();
            assert_eq!(held, expected, "{tokens}");
            assert_eq!(at_once.bytes(), tokens.min(MAX_SAMPLE) * 8 * 4);
        }
    }

    /// By the definition, in f64: more queries than are scored at a time, and the second of two KV heads.
    #[test]
    fn expected_attention_is_a_softmax_over_all_tokens_times_the_length_of_values() {
        let layout = |side| Layout::new(side, 8, Format::F32).unwrap();
        let mut rows = KvRows::new(
            layout(Side::Keys),
            layout(Side::Values),
            Growth::Share,
            Limit::NONE,
            &KvPool::default(),
        );
        let tokens = SCORED_QUERIES + 9;
        let key = |token: usize| (token % 7) as f64 * 0.1;
        let value = |token: usize| (token % 5) as f64;
        let query = |token: usize, head: usize| (token % 3) as f64 - head as f64;
        let mut sample = QuerySample::new(tokens, 4, 8);
        for token in 0..tokens {
            rows.push(&[key(token) as f32; 8], &[value(token) as f32; 8]);
            let queries: Vec<f32> = (0..4).flat_map(|head| [query(token, head) as f32; 8]).collect();
            sample.push(&queries, 0.5);
        }
        let mut expected = vec![0f64; tokens];
        for head in [2, 3] {
            for token in 0..tokens {
                let weight = |j: usize| (0.5 * 8.0 * query(token, head) * key(j)).exp();
                let sum: f64 = (0..tokens).map(weight).sum();
                for (j, expected) in expected.iter_mut().enumerate() {
                    *expected += weight(j) / sum * value(j) * 8f64.sqrt();
                }
            }
        }
        for (ours, expected) in sample.expected_attention(1, 2, &rows).into_iter().zip(expected) {
            assert!((f64::from(ours) - expected).abs() < 1e-3 * expected.max(1.0), "{ours} for {expected}");
        }
    }
}
