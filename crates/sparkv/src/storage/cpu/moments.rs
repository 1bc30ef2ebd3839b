//! Means and deviations of stored rows.

use super::row_store::RowStore;
use crate::storage::domain::{Moments, Wanted};

/// Of the rows `indices` of a dense layout, channel by channel, what is `wanted`.
pub(super) fn moments(store: &RowStore, indices: &[usize], head_dim: usize, wanted: Wanted) -> Moments {
    if wanted == Wanted::Nothing {
        return Moments::default();
    }
    let rows = indices.len().max(1) as f64;
    let (mut sums, mut squares) = (vec![0f64; head_dim], vec![0f64; head_dim]);
    let mut reader = store.reader();
    for &index in indices {
        for ((sum, squares), value) in sums.iter_mut().zip(&mut squares).zip(reader.row(index)) {
            *sum += f64::from(*value);
            *squares += f64::from(*value).powi(2);
        }
    }
    let deviation = sums.iter().zip(&squares);
    let deviation =
        deviation.map(|(sum, squares)| (squares / rows - (sum / rows).powi(2)).max(0.0).sqrt() as f32);
    let mut moments =
        Moments { mean: sums.iter().map(|sum| (sum / rows) as f32).collect(), ..Moments::default() };
    if wanted == Wanted::MeanAndDeviation {
        moments.deviation = deviation.collect();
    }
    moments
}
