//! Means and deviations of stored rows.

use super::row_store::RowStore;
use crate::storage::domain::{Moments, Wanted};

/// Rows that are summed one after the other.
const PIECE: usize = 256;

/// Of the rows `indices` of a dense layout, channel by channel, what is `wanted`.
///
/// Other devices give the same to the last bit, by the same operations on f32, none of them fused, in the same order:
/// - The n rows are taken in the order of `indices`, in pieces of 256. A piece's sum starts from 0 and takes its rows one
///   after the other; the sum of all starts from 0 and takes the pieces' sums one after the other.
/// - The mean is the sum of x, divided by n.
/// - The deviation is sqrt(the sum of (x - mean) * (x - mean), divided by n): keys can be many deviations from 0, so that
///   it cannot be had from the sum of squares.
pub(super) fn moments(store: &RowStore, indices: &[usize], head_dim: usize, wanted: Wanted) -> Moments {
    let mut moments = Moments::default();
    if wanted >= Wanted::Mean {
        moments.mean = mean(store, indices, &vec![0.0; head_dim], |x, _| x);
    }
    if wanted >= Wanted::MeanAndDeviation {
        moments.deviation = mean(store, indices, &moments.mean, |x, mean| (x - mean) * (x - mean));
        moments.deviation.iter_mut().for_each(|square| *square = square.sqrt());
    }
    moments
}

/// The mean of `term`, of each value and what `with` (head_dim) has for its channel: (head_dim).
fn mean(store: &RowStore, indices: &[usize], with: &[f32], term: impl Fn(f32, f32) -> f32) -> Box<[f32]> {
    let mut all: Box<[f32]> = vec![0.0; with.len()].into();
    let mut sums = vec![0f32; with.len()];
    let mut reader = store.reader();
    for piece in indices.chunks(PIECE) {
        sums.fill(0.0);
        for &index in piece {
            for ((sum, x), with) in sums.iter_mut().zip(reader.row(index)).zip(with) {
                *sum += term(*x, *with);
            }
        }
        all.iter_mut().zip(&sums).for_each(|(all, sum)| *all += sum);
    }
    let rows = indices.len().max(1) as f32;
    all.iter_mut().for_each(|sum| *sum /= rows);
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparkv_kernels::{Format, GROUP, Layout, Side};

    use super::*;
    use crate::plan::growth::{Growth, Limit};
    use crate::pool::KvPool;

    const HEAD_DIM: usize = 8;

    fn store(rows: impl IntoIterator<Item = [f32; HEAD_DIM]>) -> RowStore {
        let layout = Layout::new(Side::Keys, HEAD_DIM, Format::F32).unwrap();
        let mut store = RowStore::new(layout, GROUP, Growth::Share, Limit::NONE, KvPool::default());
        rows.into_iter().for_each(|row| store.push(&row));
        store
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Those in f64, also where rows are a thousand deviations from 0.
        #[test]
        fn moments_are_those_of_the_rows_asked_for(
            rows in prop::collection::vec(prop::array::uniform8(-1f32..1.0), 1..900),
            offset in prop_oneof![Just(0f32), -1000f32..1000.0], step in 1usize..4,
        ) {
            let rows: Vec<[f32; HEAD_DIM]> = rows.iter().map(|row| row.map(|x| x + offset)).collect();
            let indices: Vec<usize> = (0..rows.len()).step_by(step).collect();
            let found = moments(&store(rows.iter().copied()), &indices, HEAD_DIM, Wanted::MeanAndDeviation);
            let count = indices.len() as f64;
            let channels = found.mean.iter().zip(&found.deviation).enumerate();
            for (channel, (found_mean, found_deviation)) in channels {
                let x = || indices.iter().map(|index| f64::from(rows[*index][channel]));
                let mean = x().sum::<f64>() / count;
                let deviation = (x().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
                let off = (f64::from(*found_mean) - mean).abs();
                prop_assert!(off <= 2e-6 * (1.0 + mean.abs()), "{found_mean} for {mean}");
                let off = (f64::from(*found_deviation) - deviation).abs();
                let tolerance = 1e-5 + 4e-6 * f64::from(offset.abs());
                prop_assert!(off <= tolerance, "{found_deviation} for {deviation}");
            }
        }
    }

    /// By what rounding leaves: ones are lost beside 2^24 where they are added to it one by one, and are not where they
    /// were summed before.
    #[test]
    fn sums_are_in_the_order_that_is_promised() {
        let large = 16_777_216f32;
        let mean = |rows: Vec<f32>| {
            let indices: Vec<usize> = (0..rows.len()).collect();
            let store = store(rows.iter().map(|x| [*x; HEAD_DIM]));
            moments(&store, &indices, HEAD_DIM, Wanted::Mean).mean[0] * rows.len() as f32
        };
        let with_large = |at: usize| {
            let mut rows = vec![1.0; 2 * PIECE];
            rows[at] = large;
            rows
        };
        assert_eq!(mean(with_large(0)), large + PIECE as f32);
        // 255 beside it are 256.
        assert_eq!(mean(with_large(PIECE - 1)), large + 2.0 * PIECE as f32);
        assert_eq!(mean(with_large(PIECE)), large + PIECE as f32);
    }

    #[test]
    fn there_is_no_more_than_is_wanted() {
        let store = store([[2.0; HEAD_DIM]; 3]);
        assert_eq!(moments(&store, &[0, 2], HEAD_DIM, Wanted::Nothing), Moments::default());
        let only_mean = Moments { mean: [2.0; HEAD_DIM].into(), deviation: Box::default() };
        assert_eq!(moments(&store, &[0, 2], HEAD_DIM, Wanted::Mean), only_mean);
        let both = Moments { mean: [2.0; HEAD_DIM].into(), deviation: [0.0; HEAD_DIM].into() };
        assert_eq!(moments(&store, &[0, 2], HEAD_DIM, Wanted::MeanAndDeviation), both);
    }
}
