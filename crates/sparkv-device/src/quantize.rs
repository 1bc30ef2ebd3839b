//! Dense rows, quantized into blocks.

use sparkv_kernels::{BLOCK, Fill, Format, KeptFormat, Layout, Side};

use crate::append::RowPlace;
use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::{Constants, RowConstants};
use crate::launch::{Launch, View};
use crate::places::{Places, check_apart, check_sides, unit_of};
use crate::rows::{LINE, Units};
use crate::tables::{KeyDomain, Tables};

const KERNEL: &str = "quantize";

/// Quantizes the rows `from`, which are dense, as `dense` says they lie, into blocks that lie as `blocks` says: the first
/// [`BLOCK`] rows of each head into the first unit of `to`, and so on. Before that they are brought into the domain that the
/// `tables` say. All are in `pool`; nothing is written to units that rows are read from.
///
/// `to`: the first row of each unit. Where bits are allotted, keys of `blocks` may be of any layout that has as many; each
/// head's are as its tables say.
///
/// # Errors
/// If something does not go together or lies outside of the pool, there is no kernel for the formats, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn quantize(
    device: &Device,
    [dense, blocks]: [&Units; 2],
    tables: &Tables,
    pool: View<'_>,
    from: Places<'_>,
    to: &[RowPlace],
) -> Result<(), DeviceError> {
    check_blocks(dense, blocks, tables)?;
    if from.len() != to.len() * BLOCK {
        let reason = format!("{} rows do not fill {} blocks", from.len(), to.len());
        return Err(DeviceError::unfit(KERNEL, reason));
    }
    pool.check(KERNEL, [0, 1], true)?;
    let head_dim = dense.keys.head_dim();
    pool.check(KERNEL, [tables.line as usize * LINE + blocks.heads * tables.head_bytes(head_dim), 1], false)?;

    let format = |layout: &Layout| RowConstants::of(layout, false).format;
    let mut plan = [dense.words(), blocks.words()].concat();
    plan.extend(tables.words(head_dim));
    plan.extend([format(&dense.keys), format(&dense.values)]);
    plan.extend([fill_rule(&blocks.keys), fill_rule(&blocks.values)]);
    from.write(KERNEL, dense, &pool, &mut plan)?;
    let mut written = Vec::with_capacity(to.len());
    for place in to {
        let [line, row] = unit_of(KERNEL, blocks, &pool, place)?;
        if row != 0 {
            return Err(DeviceError::unfit(KERNEL, format!("{place:?} is within a block")));
        }
        plan.push(line);
        written.push(line as usize..line as usize + blocks.bytes() / LINE);
    }
    check_apart(KERNEL, dense, from, written)?;
    let launch = Launch {
        kernel: KERNEL,
        constants: Constants::new(&blocks.keys, &blocks.values, tables.keys == KeyDomain::Allotted, 1),
        groups: to.len() * blocks.heads * 2,
        arguments: &[pool],
        plan: &plan,
    };
    // SAFETY: rows, blocks and tables are in the pool, which may be written; a channel or bits that tables should not have lead
    // to nothing outside of a row or a block.
    unsafe { device.launch(&launch) }
}

/// How the magnitude of pruned channels is chosen, as `kernels/packed.inc` has it.
fn fill_rule(layout: &Layout) -> u32 {
    match layout.format() {
        Format::Packed(packing) if packing.fill == Fill::RootMeanSquare => 1,
        Format::Packed(_) => 2,
        _ => 0,
    }
}

/// Checks that rows can be quantized so.
fn check_blocks(dense: &Units, blocks: &Units, tables: &Tables) -> Result<(), DeviceError> {
    let refused = |reason: &str| Err(DeviceError::unfit(KERNEL, reason));
    check_sides(KERNEL, dense)?;
    check_sides(KERNEL, blocks)?;
    if (dense.heads, dense.keys.head_dim()) != (blocks.heads, blocks.keys.head_dim()) {
        return refused("rows and blocks of other heads");
    }
    if blocks.is_dense() {
        return refused("neither keys nor values are quantized");
    }
    let allotted = tables.keys == KeyDomain::Allotted;
    let has_widths = |layout: &Layout| match layout.format() {
        Format::Planes(widths) => allotted || widths.of_all(layout.head_dim()).is_some(),
        _ => !allotted,
    };
    if !has_widths(&blocks.keys) {
        return refused("bits of keys and their domain do not go together");
    }
    for side in [Side::Keys, Side::Values] {
        let layout = if side == Side::Keys { &blocks.keys } else { &blocks.values };
        if let Format::Packed(packing) = layout.format()
            && packing.values == KeptFormat::F32
        {
            return refused("packed rows whose kept values are f32 are written on the CPU only");
        }
    }
    Ok(())
}
