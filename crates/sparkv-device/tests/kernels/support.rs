//! What tests of kernels share: the device, random numbers, rows in a pool.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{LINE, Units};
use sparkv_device::{Checks, Device, Memory, RowPlace, View, append};
use sparkv_kernels::{Format, GROUP, Layout, Rows, Side};

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
pub(crate) fn bytes_of(device: &Device, memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.bytes()];
    device.download(memory.view(), &mut bytes).unwrap();
    bytes
}

/// Places of rows in runs of as many rows each, the first of which begins at `line`; lines are left out between them.
pub(crate) fn scattered(units: &Units, line: u32, runs: &[u32]) -> Vec<RowPlace> {
    let mut line = line;
    let mut places = Vec::new();
    for rows in runs {
        places.extend((0..*rows).map(|row| RowPlace { line, row }));
        line += lines(units, *rows as usize) + 3;
    }
    places
}

/// Memory with rows at `places`, and as much again and more behind them, from the line on that is given.
pub(crate) fn dense_pool(
    rng: &mut ChaCha8Rng,
    device: &Device,
    units: &Units,
    places: &[RowPlace],
) -> (Memory, u32) {
    let end = places.iter().map(|place| place.line + lines(units, place.row as usize + 1)).max().unwrap();
    let pool = device.allocate((3 * end as usize + 40) * LINE).unwrap();
    let row = units.heads * units.keys.head_dim();
    let [keys, vals] = [0; 2].map(|_| values(rng, places.len() * row));
    append(device, units, pool.view(), [View::of_host(&keys), View::of_host(&vals)], places).unwrap();
    (pool, end)
}

/// A dense row (head_dim) in the bytes of a pool.
pub(crate) fn dense_row(units: &Units, pool: &[u8], place: RowPlace, head: usize, side: Side) -> Vec<f32> {
    let layout = if side == Side::Keys { units.keys } else { units.values };
    let at = units.address(place.line, place.row as usize / GROUP, head, side);
    let rows = Rows::new(layout, &pool[at..at + layout.unit_bytes()], GROUP).decode();
    let row = place.row as usize % GROUP * layout.head_dim();
    rows[row..row + layout.head_dim()].to_vec()
}
