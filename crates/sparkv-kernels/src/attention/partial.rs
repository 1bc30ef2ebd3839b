//! Attention over a part of the rows, and how parts are merged.

/// Attention over a part of the rows, to be merged with that over the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    head_dim: usize,
    /// (queries): the largest score.
    pub(super) max: Vec<f32>,
    /// (queries): the sum of exp(score - max).
    pub(super) total: Vec<f32>,
    /// (queries, head_dim): the sum of exp(score - max) * value.
    pub(super) sums: Vec<f32>,
}

impl Partial {
    pub(super) fn new(queries: usize, head_dim: usize) -> Self {
        Self {
            head_dim,
            max: vec![f32::NEG_INFINITY; queries],
            total: vec![0.0; queries],
            sums: vec![0.0; queries * head_dim],
        }
    }

    /// Adds attention over further rows, of the same queries.
    pub fn merge(&mut self, other: &Self) {
        let sums = self.sums.chunks_exact_mut(self.head_dim).zip(other.sums.chunks_exact(self.head_dim));
        let ours = self.max.iter_mut().zip(&mut self.total).zip(sums);
        for (((max, total), (sums, others)), (other_max, other_total)) in
            ours.zip(other.max.iter().zip(&other.total))
        {
            let new_max = max.max(*other_max);
            let (a, b) = (softmax_weight(*max, new_max), softmax_weight(*other_max, new_max));
            *total = *total * a + other_total * b;
            *max = new_max;
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum = *sum * a + other * b);
        }
    }

    /// Changes the weighted sum of values (head_dim) of each query, given the sum of its weights: for values that are stored
    /// in another domain, which is to be the same linear function of the values for all of them.
    pub fn map_sums(&mut self, change: impl Fn(&mut [f32], f32)) {
        for (sums, total) in self.sums.chunks_exact_mut(self.head_dim).zip(&self.total) {
            change(sums, *total);
        }
    }

    /// The attention (queries, head_dim); zeros for a query that sees nothing.
    pub fn finish(mut self) -> Vec<f32> {
        for (sums, total) in self.sums.chunks_exact_mut(self.head_dim).zip(&self.total) {
            // A total of NaN must show.
            if *total != 0.0 {
                let inverse = 1.0 / total;
                sums.iter_mut().for_each(|channel| *channel *= inverse);
            }
        }
        self.sums
    }
}

/// exp(score - max), and 0 for a score of minus infinity, even where max is that too.
pub fn softmax_weight(score: f32, max: f32) -> f32 {
    if score == f32::NEG_INFINITY { 0.0 } else { (score - max).exp() }
}
