//! What tests of kernels share: the device, random numbers, rows in a pool.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{LINE, Units};
use sparkv_device::{Checks, Device};
use sparkv_kernels::{Format, Layout, Side};

/// A device that looks for everything.
pub(crate) fn device(seed: u64) -> Option<Device> {
    Device::simulated(Checks::Races, seed)
}

/// Rows that are not all of a size: most are small, some channels are large, some are zero.
pub(crate) fn values(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| match rng.random_range(0..16) {
            0 => 0.0,
            1 => rng.random_range(-60.0..60.0),
            _ => rng.random_range(-2.0..2.0),
        })
        .collect()
}

/// Dense rows of `format`.
pub(crate) fn dense_units(head_dim: usize, heads: usize, format: Format) -> Units {
    let layout = |side| Layout::new(side, head_dim, format).unwrap();
    Units { keys: layout(Side::Keys), values: layout(Side::Values), heads }
}

/// Lines that `rows` rows take.
pub(crate) fn lines(units: &Units, rows: usize) -> u32 {
    (rows.div_ceil(units.rows()) * units.bytes()).div_ceil(LINE) as u32
}

/// All bytes of a memory.
pub(crate) fn bytes_of(device: &Device, memory: &sparkv_device::Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.bytes()];
    device.download(memory.view(), &mut bytes).unwrap();
    bytes
}
