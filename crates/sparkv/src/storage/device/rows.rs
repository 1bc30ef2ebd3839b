//! What kernels do to a layer's rows, by what the storage knows of them.

use candle_core::Result;
use sparkv_device::rows::Units;
use sparkv_device::{Places, RowPlace, View};

use super::memory::DeviceMemory;
use super::observed::ObservedQueries;
use super::store::{Slot, Store};
use crate::accelerator::failed;
use crate::eviction::Score;
use crate::settings::QueryStatistic;
use crate::shape::AttentionConfig;
use crate::storage::domain::{Moments, Wanted};
use crate::storage::query_slots::Taken;

/// Places of `slots`, once no more memory is taken.
pub(super) fn places(slots: &[Slot]) -> Vec<RowPlace> {
    slots.iter().map(Slot::place).collect()
}

/// Calls `call` with the places of rows of each KV head, or of one where they are the same of all.
pub(super) fn with_places<R>(heads: &[Vec<Slot>], call: impl FnOnce(Places<'_>) -> R) -> R {
    match heads {
        [same] => call(Places::Same(&places(same))),
        heads => call(Places::PerHead(&heads.iter().map(|slots| places(slots)).collect::<Vec<_>>())),
    }
}

/// Copies rows of each KV head, or the same of all.
pub(super) fn copy(memory: &DeviceMemory, units: &Units, from: &[Vec<Slot>], to: &[Slot]) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    with_places(from, |from| {
        sparkv_device::copy_rows(memory.device(), units, memory.view(), from, &places(to)).map_err(failed)
    })
}
