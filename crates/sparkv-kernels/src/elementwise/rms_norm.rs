//! RMSNorm.

/// Writes rows of `weight.len()` values to `normed`, each divided by the root of the mean of its squares (and `eps`),
/// times `weight`. `rows` and `normed` are of one length.
pub fn rms_norm(rows: &[f32], weight: &[f32], eps: f32, normed: &mut [f32]) {
    let row = weight.len().max(1);
    for (normed, x) in normed.chunks_exact_mut(row).zip(rows.chunks_exact(row)) {
        // Summed and divided in the order of Candle's own: one bit more or less here may round an activation
        // the other way on its way into a quantized matrix, and everything after it.
        let divisor = (x.iter().map(|x| x * x).sum::<f32>() / row as f32 + eps).sqrt();
        normed.iter_mut().zip(x.iter().zip(weight)).for_each(|(y, (x, w))| *y = x / divisor * w);
    }
}
