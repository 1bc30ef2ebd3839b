//! What happens to rows of activations between matrix products: [`sparkv_kernels::elementwise`] on a device. All of it is f32.
//!
//! Sums and rotations are the CPU's to the last bit. A norm differs in the order in which squares are added, an activation in
//! the device's own exponential function.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View, words};

/// Values, or pairs of them, that a group changes; as in `kernels/elementwise.inc`.
const PIECE_VALUES: usize = 256;

/// RMSNorm's parameters.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm<'a> {
    /// (row)
    pub weight: View<'a>,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Angles by which rows are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Pairs of a head: channel i pairs with i + `half`.
    pub half: usize,
    /// (rows, half)
    pub sin: View<'a>,
    /// (rows, half)
    pub cos: View<'a>,
}

/// Writes `rows`, (`count`, `row`), to `normed`: each divided by the root of the mean of its squares (and `eps`), times the weight.
///
/// # Errors
/// If something does not fit its memory, or the device fails.
pub fn rms_norm(
    device: &Device,
    [count, row]: [usize; 2],
    rows: View<'_>,
    norm: RmsNorm<'_>,
    normed: View<'_>,
) -> Result<(), DeviceError> {
    let kernel = "rms_norm";
    let values = values(kernel, [count, row])?;
    check(kernel, rows, values, false)?;
    check(kernel, normed, values, true)?;
    let arguments = [rows.read_only(), norm.checked(kernel, row)?, normed];
    launch(device, kernel, count, &arguments, &norm.words(kernel, row)?)
}

/// Adds `other` to `rows`, both (`count`, `row`), and writes the sums to `normed` as [`rms_norm`] does.
///
/// # Errors
/// As [`rms_norm`].
pub fn add_rms_norm(
    device: &Device,
    [count, row]: [usize; 2],
    rows: View<'_>,
    other: View<'_>,
    norm: RmsNorm<'_>,
    normed: View<'_>,
) -> Result<(), DeviceError> {
    let kernel = "add_rms_norm";
    let values = values(kernel, [count, row])?;
    check(kernel, rows, values, true)?;
    check(kernel, other, values, false)?;
    check(kernel, normed, values, true)?;
    let arguments = [rows, other.read_only(), norm.checked(kernel, row)?, normed];
    launch(device, kernel, count, &arguments, &norm.words(kernel, row)?)
}

/// Adds `count` numbers of `other` to `values`.
///
/// # Errors
/// If there are not as many, or the device fails.
pub fn add(device: &Device, count: usize, values: View<'_>, other: View<'_>) -> Result<(), DeviceError> {
    zip(device, "add", count, [values, other])
}

/// Replaces `count` numbers of `gate` by silu(gate) * up.
///
/// # Errors
/// If there are not as many, or the device fails.
pub fn silu_times(device: &Device, count: usize, gate: View<'_>, up: View<'_>) -> Result<(), DeviceError> {
    zip(device, "silu_times", count, [gate, up])
}

/// Rotates every head of `rows`, (`count`, `row`), where `row` is a number of heads.
///
/// # Errors
/// If something does not fit its memory, rows are no whole heads, or the device fails.
pub fn rotate(
    device: &Device,
    [count, row]: [usize; 2],
    rows: View<'_>,
    angles: Angles<'_>,
) -> Result<(), DeviceError> {
    let kernel = "rotate";
    let Angles { half, sin, cos } = angles;
    if half == 0 || !(row / 2).is_multiple_of(half) || !row.is_multiple_of(2) {
        return Err(DeviceError::unfit(kernel, format!("rows of {row} are no heads of 2 * {half}")));
    }
    let pairs = values(kernel, [count, row])? / 2;
    check(kernel, rows, 2 * pairs, true)?;
    for angles in [sin, cos] {
        check(kernel, angles, count * half, false)?;
    }
    let plan = words(kernel, [pairs, row / 2, half])?;
    let arguments = [rows, sin.read_only(), cos.read_only()];
    launch(device, kernel, pairs.div_ceil(PIECE_VALUES), &arguments, &plan)
}

impl<'a> RmsNorm<'a> {
    fn checked(&self, kernel: &'static str, row: usize) -> Result<View<'a>, DeviceError> {
        check(kernel, self.weight, row, false)?;
        Ok(self.weight.read_only())
    }

    fn words(&self, kernel: &'static str, row: usize) -> Result<[u32; 2], DeviceError> {
        let [row] = words(kernel, [row])?;
        Ok([row, self.eps.to_bits()])
    }
}

/// An operation on each of `count` values and its counterpart.
fn zip(
    device: &Device,
    kernel: &'static str,
    count: usize,
    [changed, other]: [View<'_>; 2],
) -> Result<(), DeviceError> {
    check(kernel, changed, count, true)?;
    check(kernel, other, count, false)?;
    let plan = words(kernel, [count])?;
    launch(device, kernel, count.div_ceil(PIECE_VALUES), &[changed, other.read_only()], &plan)
}

fn values(kernel: &'static str, [count, row]: [usize; 2]) -> Result<usize, DeviceError> {
    count.checked_mul(row).ok_or_else(|| DeviceError::unfit(kernel, format!("{count} rows of {row}")))
}

fn check(kernel: &'static str, view: View<'_>, count: usize, writes: bool) -> Result<(), DeviceError> {
    view.check(kernel, [count, size_of::<f32>()], writes)
}

#[allow(unsafe_code, reason = "launches what was checked")]
fn launch(
    device: &Device,
    kernel: &'static str,
    groups: usize,
    arguments: &[View<'_>],
    plan: &[u32],
) -> Result<(), DeviceError> {
    let launch = Launch { kernel, constants: Constants::NONE, groups, arguments, plan };
    // SAFETY: each argument has as many values as the plan says.
    unsafe { device.launch(&launch) }
}
