//! Means and deviations of dense rows, channel by channel.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View, words};
use crate::places::Places;
use crate::rows::Units;

const SUM: &str = "sum_pieces";
const ADD: &str = "add_pieces";

/// Rows that are summed one after the other; as in `kernels/moments.inc`.
const PIECE: usize = 256;

/// Rows of head_dim numbers that [`moments`] gives for a KV head: the mean of its keys, their deviation, the mean of its values.
pub const MOMENTS: usize = 3;

/// Bytes that [`moments`] needs beside its results, for `rows` rows of each head.
pub fn moments_scratch(units: &Units, rows: usize) -> usize {
    rows.div_ceil(PIECE) * units.heads * 2 * units.keys.head_dim() * size_of::<f32>()
}

/// The mean of keys and of values over the rows of each KV head, which are dense and in `pool`; where `deviations`, the deviation
/// of keys: the root of the mean square of what they differ from their mean. `results`: (heads, [`MOMENTS`], head_dim), f32; what
/// is not asked for is left as it is. `scratch`: [`moments_scratch`].
///
/// All are sums of f32 in an order that is promised: a piece of 256 rows from 0, one row after the other; then the pieces, from 0,
/// one after the other; divided by the number of rows.
///
/// # Errors
/// If the rows are not dense, something does not fit its memory, or the device fails.
pub fn moments(
    device: &Device,
    units: &Units,
    pool: View<'_>,
    rows: Places<'_>,
    [results, scratch]: [View<'_>; 2],
    deviations: bool,
) -> Result<(), DeviceError> {
    results.check(ADD, [units.heads * MOMENTS * units.keys.head_dim(), size_of::<f32>()], true)?;
    scratch.check(SUM, [moments_scratch(units, rows.len()), 1], true)?;
    let mut places = Vec::new();
    rows.write(SUM, units, &pool, &mut places)?;
    let sums = Sums { device, units, places: &places, memory: [pool.read_only(), results, scratch] };
    // The means of keys and values; then what needs them.
    sums.launch([0, 2, 2], rows.len())?;
    if deviations { sums.launch([1, 1, 1], rows.len()) } else { Ok(()) }
}

struct Sums<'a> {
    device: &'a Device,
    units: &'a Units,
    /// Where the rows are, as kernels want to know it.
    places: &'a [u32],
    /// The pool, results, scratch.
    memory: [View<'a>; 3],
}

impl Sums<'_> {
    /// The first of some moments, how far the next is, and how many there are.
    #[allow(unsafe_code, reason = "launches what was checked")]
    fn launch(&self, moments: [u32; 3], rows: usize) -> Result<(), DeviceError> {
        let Self { device, units, places, memory: [pool, results, scratch] } = *self;
        let (pieces, of_piece) = (rows.div_ceil(PIECE), units.heads * moments[2] as usize);
        let sum = Launch {
            kernel: SUM,
            constants: Constants::new(&units.keys, &units.values, false, 1),
            groups: pieces * of_piece,
            arguments: &[pool, results.read_only(), scratch],
            plan: &[&units.words()[..], &moments, places].concat(),
        };
        // SAFETY: all rows are in the pool, results and sums have room.
        unsafe { device.launch(&sum)? };
        let add = Launch {
            kernel: ADD,
            groups: of_piece,
            arguments: &[scratch.read_only(), results],
            plan: &[&moments[..], &words(ADD, [rows, pieces])?].concat(),
            ..sum
        };
        // SAFETY: as before.
        unsafe { device.launch(&add) }
    }
}
