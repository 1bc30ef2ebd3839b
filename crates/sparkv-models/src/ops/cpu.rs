//! Row operations on the CPU: the loops of [`sparkv_kernels::elementwise`], in place, shared out among threads.
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, bail};
use sparkv_kernels::elementwise;

use super::RowOps;
use super::rope::Rotation;

/// Values that a thread takes at a time, about; fewer than two such pieces are not worth a second thread.
const PIECE: usize = 1 << 14;

/// The CPU.
#[derive(Debug)]
pub(crate) struct Cpu;

impl RowOps for Cpu {
    fn rms_norm(&self, rows: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let (storage, layout) = rows.storage_and_layout();
        let (weights, weights_layout) = weight.storage_and_layout();
        let (Storage::Cpu(storage), Storage::Cpu(weights)) = (&*storage, &*weights) else {
            bail!("RMSNorm of the CPU for {:?}", rows.device());
        };
        let (values, weights) = (values(storage, layout)?, values(weights, weights_layout)?);
        let row = layout.shape().dims2()?.1;
        if weights.len() != row {
            bail!("RMSNorm of rows of {row} with {} weights", weights.len());
        }
        let mut normed = vec![0f32; values.len()];
        share_out(&mut normed, row, |first, normed| {
            elementwise::rms_norm(&values[first * row..][..normed.len()], weights, eps, normed);
        });
        Tensor::from_vec(normed, layout.shape(), rows.device())
    }

    fn add(&self, rows: &Tensor, other: &Tensor) -> Result<()> {
        rows.inplace_op2(other, &Zip(elementwise::add))
    }

    fn silu_times(&self, gate: &Tensor, up: &Tensor) -> Result<()> {
        gate.inplace_op2(up, &Zip(elementwise::silu_times))
    }

    fn rotate(&self, rows: &Tensor, rotation: &Rotation) -> Result<()> {
        rows.inplace_op3(&rotation.sin, &rotation.cos, &Rotate)
    }
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

/// Changes each value of a tensor, given the same value of another.
struct Zip(fn(&mut [f32], &[f32]));

impl InplaceOp2 for Zip {
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
            (self.0)(values, &other[first * row..][..values.len()]);
        });
        Ok(())
    }
}

/// Rotates the rows of a tensor; the others are sine and cosine, (rows, half of a head).
struct Rotate;

impl InplaceOp3 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        changed: &mut CpuStorage,
        layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
    ) -> Result<()> {
        let (rows, row) = layout.shape().dims2()?;
        let (angles, half) = sin_layout.shape().dims2()?;
        if rows != angles || !row.is_multiple_of(2 * half) || sin_layout.shape() != cos_layout.shape() {
            bail!("a rotation of {:?} for {:?}", sin_layout.shape(), layout.shape());
        }
        let (sin, cos) = (values(sin, sin_layout)?, values(cos, cos_layout)?);
        share_out(values_mut(changed, layout)?, row, |first, values| {
            elementwise::rotate(values, row, &sin[first * half..], &cos[first * half..], half);
        });
        Ok(())
    }
}

pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("rows must be f32 and contiguous, got {layout:?}"),
    }
}

pub(crate) fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("rows must be f32 and contiguous, got {layout:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
            assert_close(&Cpu.rms_norm(&x, &weight, 1e-5).unwrap(), &expected);

            let sum = x.copy().unwrap();
            Cpu.add(&sum, &y).unwrap();
            assert_close(&sum, &(&x + &y).unwrap());

            let gate = x.copy().unwrap();
            Cpu.silu_times(&gate, &y).unwrap();
            assert_close(&gate, &(candle_nn::ops::silu(&x).unwrap() * &y).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = numbers(4, 10, 0);
        assert!(Cpu.add(&x, &numbers(2, 20, 0)).is_err());
        assert!(Cpu.add(&x.t().unwrap(), &x.t().unwrap().contiguous().unwrap()).is_err());
        assert!(Cpu.rms_norm(&x, &numbers(1, 9, 0).squeeze(0).unwrap(), 1e-5).is_err());
    }
}
