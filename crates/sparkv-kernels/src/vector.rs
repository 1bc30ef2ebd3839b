//! The operations attention is made of, written so that the compiler vectorizes them.

/// Independent partial sums; enough for two 256-bit or four 128-bit registers.
const LANES: usize = 16;

/// Sum of `a[i] * b[i]` over the shorter length. Partial sums are added in a fixed order, so the result
/// depends on the operands only.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `acc[i] += factor * row[i]` over the shorter length.
#[inline]
pub(crate) fn axpy(acc: &mut [f32], factor: f32, row: &[f32]) {
    for (acc, value) in acc.iter_mut().zip(row) {
        *acc += factor * value;
    }
}

/// exp(score - max), and 0 for a score of minus infinity, even where max is that too.
#[inline]
pub fn softmax_probability(score: f32, max: f32) -> f32 {
    if score == f32::NEG_INFINITY { 0.0 } else { (score - max).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dot_agrees_with_f64(pairs in prop::collection::vec((-1e3f32..1e3, -1e3f32..1e3), 0..300)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let magnitude: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() <= 1e-5 * magnitude + 1e-30);
        }

        #[test]
        fn axpy_adds_every_channel(row in prop::collection::vec(-10f32..10.0, 0..100), factor in -2f32..2.0) {
            let mut acc = vec![1.0; row.len()];
            axpy(&mut acc, factor, &row);
            for (acc, value) in acc.iter().zip(&row) {
                prop_assert_eq!(*acc, 1.0 + factor * value);
            }
        }
    }
}
