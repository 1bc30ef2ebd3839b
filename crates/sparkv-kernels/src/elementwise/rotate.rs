//! Rotary position embedding, applied.

/// Rotates all heads of rows of `row` values. `sin` and `cos`: (rows, half), where `half` is half of a head; channel i
/// pairs with i + `half`.
pub fn rotate(rows: &mut [f32], row: usize, sin: &[f32], cos: &[f32], half: usize) {
    let half = half.max(1);
    let angles = sin.chunks_exact(half).zip(cos.chunks_exact(half));
    for (row, (sin, cos)) in rows.chunks_exact_mut(row.max(1)).zip(angles) {
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (sin, cos)) in first.iter_mut().zip(second).zip(sin.iter().zip(cos)) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}
