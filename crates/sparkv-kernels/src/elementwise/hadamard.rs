//! The rotation that spreads what is in few channels over many.

/// Replaces each row (head_dim) of `rows` by its product with a symmetric orthogonal matrix, which is its own inverse: the
/// Hadamard matrix of as many channels over the root of their number. Where head_dim is no power of two, blocks of the
/// largest power of two that divides it are rotated each by itself.
///
/// # Panics
/// If `rows` are not whole rows.
pub fn rotate_hadamard(rows: &mut [f32], head_dim: usize) {
    assert!(head_dim > 0 && rows.len().is_multiple_of(head_dim), "whole rows");
    let size = 1usize << head_dim.trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    for block in rows.chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_exact_mut(2 * half) {
                let (left, right) = pair.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        block.iter_mut().for_each(|value| *value *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: the sign is the parity of the bits that row and column have in common.
    fn expected(row: &[f32], size: usize) -> Vec<f32> {
        let product = |block: &[f32], i: usize| -> f32 {
            let signed = |(j, value): (usize, &f32)| {
                if (i & j).count_ones().is_multiple_of(2) { f64::from(*value) } else { -f64::from(*value) }
            };
            (block.iter().enumerate().map(signed).sum::<f64>() / (size as f64).sqrt()) as f32
        };
        row.chunks_exact(size).flat_map(|block| (0..size).map(move |i| product(block, i))).collect()
    }

    #[test]
    fn it_is_the_hadamard_matrix_and_its_own_inverse() {
        for (head_dim, size) in [(8, 8), (64, 64), (128, 128), (80, 16), (96, 32), (24, 8), (256, 256)] {
            let rows: Vec<f32> = (0..3 * head_dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let mut rotated = rows.clone();
            rotate_hadamard(&mut rotated, head_dim);
            for (found, expected) in rotated.iter().zip(expected(&rows, size)) {
                assert!((found - expected).abs() < 1e-4, "{head_dim}: {found} is not {expected}");
            }
            rotate_hadamard(&mut rotated, head_dim);
            for (found, expected) in rotated.iter().zip(&rows) {
                assert!((found - expected).abs() < 1e-5, "{head_dim}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_within_its_row() {
        let mut rows = vec![1.0; 32];
        rows[3] = f32::NAN;
        rotate_hadamard(&mut rows, 16);
        assert!(
            rows[..16].iter().all(|value| value.is_nan()) && rows[16..].iter().all(|value| value.is_finite())
        );
    }
}
