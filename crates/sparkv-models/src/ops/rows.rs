//! What happens to rows of activations between matrix products.
//!
//! In place where the result takes the place of its input: a temporary of some megabytes per operation and
//! layer costs more than most of the operations. The loops are written for the compiler to vectorize.
use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, bail};

/// Values that a thread takes at a time, about; fewer than two such pieces are not worth a second thread.
const PIECE: usize = 1 << 14;

/// Adds `other` to `rows`; both of one shape, f32.
pub(crate) fn add(rows: &Tensor, other: &Tensor) -> Result<()> {
    rows.inplace_op2(other, &Zip(|x: f32, y: f32| x + y))
}

/// Replaces `gate` by silu(gate) * up; both of one shape, f32.
pub(crate) fn silu_times(gate: &Tensor, up: &Tensor) -> Result<()> {
    gate.inplace_op2(up, &Zip(|x: f32, y: f32| silu(x) * y))
}

/// Calls `change` with every row of `rows`, (rows, row), f32, and its index.
pub(crate) fn for_each(rows: &Tensor, change: impl Fn(usize, &mut [f32]) + Sync) -> Result<()> {
    rows.inplace_op1(&Each(change))
}

/// Rows, (rows, row), f32, each divided by the root of the mean of its squares, times `weight`, (row).
pub(crate) fn rms_norm(rows: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let (storage, layout) = rows.storage_and_layout();
    let (weights, weights_layout) = weight.storage_and_layout();
    let (Storage::Cpu(rows), Storage::Cpu(weights)) = (&*storage, &*weights) else {
        bail!("there is no RMSNorm for {:?}", rows.device());
    };
    let (rows, weights) = (values(rows, layout)?, values(weights, weights_layout)?);
    let row = layout.shape().dims2()?.1;
    if weights.len() != row {
        bail!("RMSNorm of rows of {row} with {} weights", weights.len());
    }
    let mut normed = vec![0f32; rows.len()];
    share_out(&mut normed, row, |first, normed| {
        for (normed, x) in normed.chunks_exact_mut(row).zip(rows[first * row..].chunks_exact(row)) {
            // Summed and divided in the order of Candle's own: one bit more or less here may round an activation
            // the other way on its way into a quantized matrix, and everything after it.
            let divisor = (x.iter().map(|x| x * x).sum::<f32>() / row as f32 + eps).sqrt();
            normed.iter_mut().zip(x.iter().zip(weights)).for_each(|(y, (x, w))| *y = x / divisor * w);
        }
    });
    Tensor::from_vec(normed, layout.shape(), &Device::Cpu)
}

/// x / (1 + e^-x)
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// e^x within 2e-7 of itself; beyond f32's normal numbers, the largest or smallest of them. Unlike the
/// standard library's, several of these are computed at once.
fn exp(x: f32) -> f32 {
    /// Added to a small number, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2, its upper bits and the rest, so that their multiples lose nothing.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.3, 88.3);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = rounded - ROUND;
    let r = x - exponent * LN_2[0] - exponent * LN_2[1];
    let series = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    let polynomial = series.into_iter().fold(0.0, |sum, term| sum * r + term) * r * r + r + 1.0;
    polynomial * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// Calls `compute` with pieces of `values`, some rows each, and the index of their first row.
fn share_out(values: &mut [f32], row: usize, compute: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (PIECE / row.max(1)).max(1);
    if values.len() < 2 * rows * row {
        return compute(0, values);
    }
    let mut pieces: Vec<_> = values.chunks_mut(rows * row).collect();
    sparkv::parallel::for_each(&mut pieces, |index, piece| compute(index * rows, piece));
}

/// Replaces each value of a tensor by a function of it and the same value of another.
struct Zip<F>(F);

impl<F: Fn(f32, f32) -> f32 + Sync> InplaceOp2 for Zip<F> {
    fn name(&self) -> &'static str {
        "zip"
    }

    fn cpu_fwd(
        &self,
        changed: &mut CpuStorage,
        layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<()> {
        if layout.shape() != other_layout.shape() {
            bail!("{:?} and {:?} are no rows of one length", layout.shape(), other_layout.shape());
        }
        let other = values(other, other_layout)?;
        let row = layout.shape().dims2()?.1;
        share_out(values_mut(changed, layout)?, row, |first, values| {
            values.iter_mut().zip(&other[first * row..]).for_each(|(x, y)| *x = (self.0)(*x, *y));
        });
        Ok(())
    }
}

/// Changes each row of a tensor.
struct Each<F>(F);

impl<F: Fn(usize, &mut [f32]) + Sync> InplaceOp1 for Each<F> {
    fn name(&self) -> &'static str {
        "each"
    }

    fn cpu_fwd(&self, changed: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let row = layout.shape().dims2()?.1;
        share_out(values_mut(changed, layout)?, row, |first, rows| {
            (first..).zip(rows.chunks_exact_mut(row.max(1))).for_each(|(index, row)| (self.0)(index, row));
        });
        Ok(())
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("rows must be f32 and contiguous, got {layout:?}"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("rows must be f32 and contiguous, got {layout:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in [-8, 8).
    fn numbers(rows: usize, row: usize, seed: usize) -> Tensor {
        let values: Vec<f32> =
            (0..rows * row).map(|i| ((i * 7919 + seed) % 4001) as f32 / 250.0 - 8.0).collect();
        Tensor::from_vec(values, (rows, row), &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let off = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-5, "{off}");
    }

    /// One row, an odd number of short rows, enough to be shared out.
    const SHAPES: [(usize, usize); 3] = [(1, 40), (7, 33), (100, 1000)];

    #[test]
    fn the_same_as_candle() {
        for (rows, row) in SHAPES {
            let (x, y) = (numbers(rows, row, 1), numbers(rows, row, 2));
            let weight = numbers(1, row, 3).squeeze(0).unwrap();
            let expected = candle_nn::ops::rms_norm(&x, &weight, 1e-5).unwrap();
            assert_close(&rms_norm(&x, &weight, 1e-5).unwrap(), &expected);

            let sum = x.copy().unwrap();
            add(&sum, &y).unwrap();
            assert_close(&sum, &(&x + &y).unwrap());

            let gate = x.copy().unwrap();
            silu_times(&gate, &y).unwrap();
            assert_close(&gate, &(candle_nn::ops::silu(&x).unwrap() * &y).unwrap());
        }
    }

    #[test]
    fn each_row_is_changed_once() {
        for (rows, row) in SHAPES {
            let x = Tensor::zeros((rows, row), candle_core::DType::F32, &Device::Cpu).unwrap();
            for_each(&x, |index, row| row.iter_mut().for_each(|x| *x += index as f32)).unwrap();
            let sums = x.sum(1).unwrap().to_vec1::<f32>().unwrap();
            assert!((0..).zip(sums).all(|(index, sum)| sum == (index * row) as f32));
        }
    }

    #[test]
    fn exp_is_exact_to_the_last_bits() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            let off = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(off < 2e-7, "e^{x}: {off}");
        }
    }

    #[test]
    fn silu_of_extremes() {
        assert_eq!(silu(1e30), 1e30);
        assert!(silu(-1e30).abs() < 1e-6 && silu(f32::MIN_POSITIVE) == f32::MIN_POSITIVE / 2.0);
        assert!(silu(f32::NAN).is_nan());
        assert_eq!(silu(f32::INFINITY), f32::INFINITY);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = numbers(4, 10, 0);
        assert!(add(&x, &numbers(2, 20, 0)).is_err());
        assert!(add(&x.t().unwrap(), &x.t().unwrap().contiguous().unwrap()).is_err());
        assert!(rms_norm(&x, &numbers(1, 9, 0).squeeze(0).unwrap(), 1e-5).is_err());
    }
}
