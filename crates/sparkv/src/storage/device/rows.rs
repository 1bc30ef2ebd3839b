//! What kernels do to a layer's rows, by what the storage knows of them.

use candle_core::Result;
use sparkv_device::rows::Units;
use sparkv_device::{
    HeldQuery, MOMENTS, Mass, Observation, Observed, Places, Prompt, RowPlace, Tables, View,
};

use sparkv_kernels::BLOCK;

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
    let observation =
        |slot: usize, seen: usize| Observation { slot: slot as u32, seen: seen.min(tokens) as u32 };
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
    let (Some(queries), false) = (observed.rows().transpose()?, positions.is_empty()) else {
        return Ok(None);
    };
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

/// Quantizes rows of each KV head, or the same of all, of `from` into the blocks of `to`. Where a plan prunes so little that
/// nothing is pruned, these are rows as they were.
pub(super) fn quantize(
    memory: &DeviceMemory,
    tables: &Tables,
    (dense, from): (&Units, &[Vec<Slot>]),
    (blocks, to): (&Units, &[Slot]),
) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    if blocks.is_dense() {
        let rows = to.iter().flat_map(|block| (0..BLOCK as u32).map(|row| block.behind(row)));
        return copy(memory, dense, from, &rows.collect::<Vec<_>>());
    }
    with_places(from, |from| {
        let pool = memory.view();
        sparkv_device::quantize(memory.device(), [dense, blocks], tables, pool, from, &places(to))
            .map_err(failed)
    })
}

/// Takes note of queries of a batch, (tokens, query_heads * head_dim), in slots of `to`.
pub(super) fn observe(
    memory: &DeviceMemory,
    attention: &AttentionConfig,
    units: &Units,
    [queries, to]: [View<'_>; 2],
    taken: &[Taken],
) -> Result<()> {
    let held = taken.iter().map(|taken| HeldQuery { row: taken.row as u32, slot: taken.slot as u32 });
    let held: Vec<HeldQuery> = held.collect();
    let group = attention.group();
    sparkv_device::observe(memory.device(), (units, group), [queries, to], attention.scale, &held)
        .map_err(failed)
}

/// The energy of the prompt's last queries (head_dim), by KV head; `None` where they were not observed.
pub(super) fn query_energy(
    memory: &DeviceMemory,
    attention: &AttentionConfig,
    units: &Units,
    observed: &ObservedQueries,
    statistic: QueryStatistic,
) -> Result<Option<Vec<Vec<f32>>>> {
    let (Some(queries), Some(rows)) = (observed.window_queries(), observed.rows()) else { return Ok(None) };
    let (rows, group) = (rows?, attention.group());
    let slots: Vec<u32> = queries.into_iter().map(|(_, slot)| slot as u32).collect();
    let statistic = match statistic {
        QueryStatistic::Rms => sparkv_device::QueryStatistic::Rms,
        QueryStatistic::Mean => sparkv_device::QueryStatistic::Mean,
    };
    let energy = make(memory.accelerator(), (attention.kv_heads, attention.head_dim), |energy| {
        let device = memory.device();
        sparkv_device::query_energy(device, (units, group), [rows, energy], &slots, statistic).map_err(failed)
    })?;
    energy.to_vec2().map(Some)
}

/// What is `wanted` of the rows `places`, of keys and of values, by KV head.
pub(super) fn moments(
    memory: &DeviceMemory,
    units: &Units,
    places: Places<'_>,
    wanted: [Wanted; 2],
) -> Result<Vec<[Moments; 2]>> {
    let (heads, head_dim) = (units.heads, units.keys.head_dim());
    if wanted == [Wanted::Nothing; 2] {
        return Ok((0..heads).map(|_| Default::default()).collect());
    }
    let deviations = wanted[0] == Wanted::MeanAndDeviation;
    let scratch = sparkv_device::moments_scratch(units, places.len());
    let found = make(memory.accelerator(), (heads, MOMENTS, head_dim), |found| {
        with_scratch(memory.accelerator(), scratch, |scratch| {
            sparkv_device::moments(
                memory.device(),
                units,
                memory.view(),
                places,
                [found, scratch],
                deviations,
            )
            .map_err(failed)
        })
    })?;
    let of_head = |rows: Vec<Vec<f32>>| {
        let mut rows = rows.into_iter().map(Vec::into_boxed_slice);
        let mut next = |is_wanted: bool| rows.next().filter(|_| is_wanted).unwrap_or_default();
        let (mean, deviation) = (next(wanted[0] >= Wanted::Mean), next(deviations));
        let values = Moments { mean: next(wanted[1] >= Wanted::Mean), ..Moments::default() };
        [Moments { mean, deviation }, values]
    };
    Ok(found.to_vec3()?.into_iter().map(of_head).collect())
}
