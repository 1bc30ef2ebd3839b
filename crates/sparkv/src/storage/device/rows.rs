//! What kernels do to a layer's rows, by what the storage knows of them.

use candle_core::Result;
use sparkv_device::rows::Units;
use sparkv_device::{Mass, Observation, Observed, Places, Prompt, RowPlace, View};

use super::domains::DeviceDomains;
use super::memory::DeviceMemory;
use super::observed::ObservedQueries;
use super::store::{Slot, Store};
use crate::accelerator::{failed, make, with_scratch};
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

/// What each token of the prompt scores, by KV head; `None` where what it takes was not observed.
pub(super) fn score(
    memory: &DeviceMemory,
    attention: &AttentionConfig,
    score: Score,
    observed: &ObservedQueries,
    prompt: &Store,
) -> Result<Option<Vec<Vec<f32>>>> {
    let tokens = prompt.len();
    let observation = |slot: usize, seen: usize| Observation { slot: slot as u32, seen: seen.min(tokens) as u32 };
    let (mass, positions) = match score {
        Score::WindowAttention => {
            let window = observed.window_queries().into_iter().flatten();
            (Mass::Attention, window.map(|(position, slot)| observation(slot, position + 1)).collect())
        }
        Score::ExpectedAttention => {
            let sample = observed.sample_slots().into_iter().flatten();
            (Mass::Contribution, sample.map(|slot| observation(slot, tokens)).collect::<Vec<_>>())
        }
    };
    let (Some(queries), false) = (observed.rows().transpose()?, positions.is_empty()) else { return Ok(None) };
    let scratch = sparkv_device::mass_scratch_bytes(tokens, positions.len() * attention.query_heads);
    let runs = prompt.runs();
    let prompt = Prompt { units: &prompt.units, pool: memory.view().read_only(), runs: &runs };
    let observed = Observed { queries, query_heads: attention.query_heads, positions: &positions };
    let masses = make(memory.accelerator(), (attention.kv_heads, tokens), |masses| {
        with_scratch(memory.accelerator(), scratch, |scratch| {
            sparkv_device::mass(memory.device(), mass, prompt, observed, scratch, masses).map_err(failed)
        })
    })?;
    masses.to_vec2().map(Some)
}

/// Quantizes rows of each KV head, or the same of all, of `from` into the units of `to`.
pub(super) fn quantize(
    memory: &DeviceMemory,
    domains: &DeviceDomains,
    (dense, from): (&Units, &[Vec<Slot>]),
    (blocks, to): (&Units, &[Slot]),
) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    with_places(from, |from| {
        let (tables, pool) = (domains.tables(), memory.view());
        sparkv_device::quantize(memory.device(), [dense, blocks], &tables, pool, from, &places(to))
            .map_err(failed)
    })
}
