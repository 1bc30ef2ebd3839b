//! Means, and how sure they are.

use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Draws of a bootstrap.
const DRAWS: usize = 2000;

/// The mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard error of the mean of independent values.
pub(crate) fn standard_error(values: &[f64]) -> f64 {
    let (mean, count) = (mean(values), values.len() as f64);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (variance / count.max(1.0)).sqrt()
}

/// The value that a share of the values does not exceed; 0 of nothing.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Where the mean of values lies in 95 of 100 draws of as many of them.
pub(crate) fn bootstrap(values: &[f64]) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let draw = |rng: &mut ChaCha8Rng| {
        let drawn: Vec<f64> = (0..values.len()).filter_map(|_| values.choose(rng).copied()).collect();
        mean(&drawn)
    };
    let means: Vec<f64> = (0..DRAWS).map(|_| draw(&mut rng)).collect();
    [quantile(&means, 0.025), quantile(&means, 0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values() {
        let values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.999, 1.0].map(|share| quantile(&values, share)), [500.0, 999.0, 1000.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
