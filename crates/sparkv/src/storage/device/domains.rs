//! What is done to a layer's rows on a device before they are quantized: tables for kernels to read.

use candle_core::Result;
use sparkv_device::rows::Units;
use sparkv_device::{KeyDomain as TableDomain, Places, Tables};

use super::memory::{DeviceMemory, HeldLines};
use super::observed::ObservedQueries;
use super::rows;
use crate::accelerator::failed;
use crate::plan::{CachePlan, KeyDomain, QuantizePlan};
use crate::pool::KvPool;
use crate::storage::domain::{Domains, Settled, wanted};

/// The domains of all KV heads.
#[derive(Debug)]
pub(super) struct DeviceDomains {
    heads: Vec<Domains>,
    /// Where [`Tables`] are; `None` where there are none.
    lines: Option<HeldLines>,
    keys: TableDomain,
    values_rotated: bool,
}

impl DeviceDomains {
    /// Nothing settled yet.
    pub(super) fn new(
        memory: &DeviceMemory,
        plan: &CachePlan,
        quantize: &QuantizePlan,
        observed: &ObservedQueries,
        pool: &KvPool,
    ) -> Result<Self> {
        let kv_heads = plan.shape.attention.kv_heads;
        let energies = if quantize.observes_queries() {
            let units = Units { keys: plan.dense_keys, values: plan.dense_values, heads: kv_heads };
            rows::query_energy(memory, &plan.shape.attention, &units, observed, plan.statistic)?
        } else {
            None
        };
        let energies =
            energies.map_or_else(|| vec![None; kv_heads], |heads| heads.into_iter().map(Some).collect());
        let heads = energies.into_iter().map(|energy| Domains::new(quantize, energy, pool)).collect();
        let bytes = kv_heads * quantize.domain_bytes();
        let lines = (bytes > 0).then(|| memory.hold(bytes)).transpose().map_err(failed)?;
        let keys = match quantize.key_domain {
            KeyDomain::Plain => TableDomain::Plain,
            KeyDomain::Scaled { centered } => TableDomain::Scaled { centered },
            KeyDomain::Rotated => TableDomain::Rotated,
            KeyDomain::Allotted { .. } => TableDomain::Allotted,
        };
        Ok(Self { heads, lines, keys, values_rotated: quantize.rotates_values })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.heads.iter().map(Domains::bytes).sum()
    }

    /// Where the tables are.
    pub(super) fn tables(&self) -> Tables {
        let line = self.lines.as_ref().map_or(0, HeldLines::first);
        Tables { line, keys: self.keys, values_rotated: self.values_rotated }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.heads.iter().all(|head| head.settled().is_some())
    }

    /// Settles them by the rows `places` of `units`, and puts the tables where kernels read them.
    pub(super) fn settle(
        &mut self,
        memory: &DeviceMemory,
        quantize: &QuantizePlan,
        units: &Units,
        places: Places<'_>,
    ) -> Result<()> {
        let moments = rows::moments(memory, units, places, wanted(quantize))?;
        for (head, moments) in self.heads.iter_mut().zip(moments) {
            head.settle(quantize, moments);
        }
        let Some(lines) = &self.lines else { return Ok(()) };
        let tables: Vec<u8> = self.heads.iter().filter_map(Domains::settled).flat_map(table_bytes).collect();
        memory.device().upload(lines.view().map_err(failed)?, &tables).map_err(failed)
    }
}

/// A head's tables, as [`Tables`] says.
fn table_bytes(settled: &Settled) -> Vec<u8> {
    let Settled { key_mean, key_factors, key_weights, value_mean, order, key_layout, .. } = settled;
    let mut bytes = Vec::new();
    for table in [key_mean, key_factors, key_weights, value_mean] {
        bytes.extend(table.iter().flat_map(|value| value.to_le_bytes()));
    }
    let bits_at = |place| match key_layout.format() {
        sparkv_kernels::Format::Planes(widths) => u16::from(widths.bits_at(place)),
        _ => 0,
    };
    let places = order.iter().enumerate().map(|(place, channel)| channel | bits_at(place) << 12);
    bytes.extend(places.flat_map(u16::to_le_bytes));
    bytes
}
