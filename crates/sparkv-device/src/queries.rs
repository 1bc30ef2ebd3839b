//! Queries that are held of a prompt, and what they say of channels.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View, words};
use crate::rows::Units;

const OBSERVE: &str = "observe";
const ENERGY: &str = "query_energy";

/// A query that is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldQuery {
    /// Which of the rows that come.
    pub row: u32,
    /// Where it goes.
    pub slot: u32,
}

/// How the queries of heads that share a KV head are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryStatistic {
    /// Each for itself.
    Rms,
    /// Their mean.
    Mean,
}

/// Holds rows of `queries`, (rows, query heads * head_dim), times `scale`, in slots of `observed`, (slots, query heads *
/// head_dim); all f32. There are `group` query heads to each KV head of `units`.
///
/// # Errors
/// If a row or a slot is not there or two go to one slot, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn observe(
    device: &Device,
    (units, group): (&Units, usize),
    [queries, observed]: [View<'_>; 2],
    scale: f32,
    held: &[HeldQuery],
) -> Result<(), DeviceError> {
    let heads = units.heads.saturating_mul(group);
    for query in held {
        check_row(OBSERVE, units, heads, (queries, query.row))?;
        check_row(OBSERVE, units, heads, (observed, query.slot))?;
    }
    let mut slots: Vec<u32> = held.iter().map(|query| query.slot).collect();
    slots.sort_unstable();
    if slots.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(DeviceError::unfit(OBSERVE, "two queries for one slot"));
    }
    observed.check(OBSERVE, [0, 1], true)?;
    let [query_heads] = words(OBSERVE, [heads])?;
    let mut plan = vec![query_heads, scale.to_bits()];
    plan.extend(held.iter().flat_map(|query| [query.row, query.slot]));
    let launch = Launch {
        kernel: OBSERVE,
        constants: Constants::new(&units.keys, &units.values, false, 1),
        groups: held.len() * heads,
        arguments: &[queries.read_only(), observed],
        plan: &plan,
    };
    // SAFETY: all rows and slots are there.
    unsafe { device.launch(&launch) }
}

/// n, the L2 norm of each channel over the queries in `slots` of `observed` ([`observe`]), for each KV head: `energy` (KV heads,
/// head_dim), f32.
///
/// A sum of f32 in an order that is promised: from 0, slot by slot as they are given, and in each, head by head, q * q; or the
/// square of the heads' mean, which is their sum, from 0, divided by how many they are. n is its root.
///
/// # Errors
/// If something does not fit its memory, or the device fails.
#[allow(unsafe_code, reason = "launches what was checked")]
pub fn query_energy(
    device: &Device,
    (units, group): (&Units, usize),
    [observed, energy]: [View<'_>; 2],
    slots: &[u32],
    statistic: QueryStatistic,
) -> Result<(), DeviceError> {
    let head_dim = units.keys.head_dim();
    for slot in slots {
        check_row(ENERGY, units, units.heads.saturating_mul(group), (observed, *slot))?;
    }
    energy.check(ENERGY, [units.heads * head_dim, size_of::<f32>()], true)?;
    let takes_mean = usize::from(statistic == QueryStatistic::Mean);
    let mut plan = words(ENERGY, [group, units.heads, takes_mean, slots.len()])?.to_vec();
    plan.extend(slots);
    let launch = Launch {
        kernel: ENERGY,
        constants: Constants::new(&units.keys, &units.values, false, 1),
        groups: units.heads * head_dim.div_ceil(32),
        arguments: &[observed.read_only(), energy],
        plan: &plan,
    };
    // SAFETY: all slots are there, and there is room for the result.
    unsafe { device.launch(&launch) }
}

/// Checks that there is a row of queries.
fn check_row(
    kernel: &'static str,
    units: &Units,
    heads: usize,
    (memory, row): (View<'_>, u32),
) -> Result<(), DeviceError> {
    let rows = (row as usize + 1).saturating_mul(heads.saturating_mul(units.keys.head_dim()));
    memory.check(kernel, [rows, size_of::<f32>()], false)
}
