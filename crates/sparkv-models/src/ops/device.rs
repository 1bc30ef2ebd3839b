//! Row operations on a device, by our kernels, in place.
use candle_core::{Result, Tensor};
use sparkv::Accelerator;
use sparkv::accelerator::{View, change, make, read, with_scratch};
use sparkv_device::{Angles, DeviceError, RmsNorm, TopLogits, top_k_scratch_bytes, top_k_words};

use super::RowOps;
use super::rope::Rotation;

/// A device.
#[derive(Debug)]
pub(super) struct OnDevice(pub(super) Accelerator);

impl RowOps for OnDevice {
    fn rms_norm(&self, rows: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let (count, row) = rows.dims2()?;
        let device = self.0.device();
        make(&self.0, rows.shape(), |normed| {
            read(rows, |rows| {
                read(weight, |weight| {
                    launched(sparkv_device::rms_norm(
                        device,
                        [count, row],
                        rows,
                        RmsNorm { weight, eps },
                        normed,
                    ))
                })
            })
        })
    }

    fn add(&self, rows: &Tensor, other: &Tensor) -> Result<()> {
        self.zip(rows, other, |rows, other| {
            sparkv_device::add(self.0.device(), rows.bytes() / 4, rows, other)
        })
    }

    fn silu_times(&self, gate: &Tensor, up: &Tensor) -> Result<()> {
        self.zip(gate, up, |gate, up| sparkv_device::silu_times(self.0.device(), gate.bytes() / 4, gate, up))
    }

    fn rotate(&self, rows: &Tensor, rotation: &Rotation) -> Result<()> {
        let ((count, row), half) = (rows.dims2()?, rotation.sin.dim(1)?);
        read(&rotation.sin, |sin| {
            read(&rotation.cos, |cos| {
                change(rows, |rows| {
                    let angles = Angles { half, sin, cos };
                    launched(sparkv_device::rotate(self.0.device(), [count, row], rows, angles))
                })
            })
        })
    }

    fn largest(&self, rows: &Tensor, count: usize) -> Result<Option<Vec<TopLogits>>> {
        let (device, shape) = (self.0.device(), <[usize; 2]>::from(rows.dims2()?));
        let words = make(&self.0, (shape[0], top_k_words(count)), |found| {
            read(rows, |rows| {
                with_scratch(&self.0, top_k_scratch_bytes(shape, count), |scratch| {
                    launched(sparkv_device::top_k(device, shape, count, rows, scratch, found))
                })
            })
        })?;
        // Tensors of ours are f32, whatever their bits are.
        let found = words.to_vec2::<f32>()?.into_iter().map(|words| {
            let words: Vec<u32> = words.into_iter().map(f32::to_bits).collect();
            TopLogits::of(&words)
        });
        Ok(Some(found.collect()))
    }
}

impl OnDevice {
    /// Changes values of a tensor by those of another of the same shape.
    fn zip(
        &self,
        changed: &Tensor,
        other: &Tensor,
        launch: impl Fn(View<'_>, View<'_>) -> std::result::Result<(), DeviceError>,
    ) -> Result<()> {
        if changed.shape() != other.shape() {
            candle_core::bail!("{:?} and {:?} are no rows of one length", changed.shape(), other.shape());
        }
        read(other, |other| change(changed, |changed| launched(launch(changed, other))))
    }
}

fn launched(result: std::result::Result<(), DeviceError>) -> Result<()> {
    result.map_err(candle_core::Error::wrap)
}
