//! A layer's storage on whichever device its memory is.

use candle_core::Result;

use super::LayerStorage;
use super::cpu::CpuLayer;
use super::device::layer::DeviceLayer;
use super::device::memory::DeviceMemory;
use crate::eviction::Score;
use crate::plan::CachePlan;
use crate::pool::KvPool;

/// One layer's rows of one sequence.
#[derive(Debug)]
pub(crate) enum Layer {
    Cpu(CpuLayer),
    Device(Box<DeviceLayer>),
}

/// What other sequences may begin with; see [`LayerStorage::share`].
#[derive(Clone)]
pub(crate) enum SharedLayer {
    Cpu(<CpuLayer as LayerStorage>::Shared),
    Device(<DeviceLayer as LayerStorage>::Shared),
}

/// Calls a verb of whichever storage it is.
macro_rules! on {
    ($layer:expr, $storage:ident => $call:expr) => {
        match $layer {
            Layer::Cpu($storage) => $call,
            Layer::Device($storage) => $call,
        }
    };
}

/// The verbs of [`LayerStorage`] that do not depend on where a batch's rows are.
impl Layer {
    /// Nothing stored yet; what will be is in the memory of `pool`.
    pub(crate) fn new(plan: &CachePlan, pool: &KvPool) -> Self {
        if pool.memory().is_some() {
            Self::Device(Box::new(DeviceLayer::new(plan, pool)))
        } else {
            Self::Cpu(CpuLayer::new(plan, pool))
        }
    }

    /// The memory of the device that it is on; `None` for the CPU.
    pub(crate) fn memory(&self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu(_) => None,
            Self::Device(storage) => storage.memory().ok().cloned(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        on!(self, storage => storage.len())
    }

    pub(crate) fn bytes(&self) -> usize {
        on!(self, storage => storage.bytes())
    }

    pub(crate) fn next_bytes(&self, plan: &CachePlan) -> usize {
        on!(self, storage => storage.next_bytes(plan))
    }

    pub(crate) fn room(&self, plan: &CachePlan) -> usize {
        on!(self, storage => storage.room(plan))
    }

    pub(crate) fn begin_prompt(&mut self, plan: &CachePlan, first: usize) -> Result<()> {
        on!(self, storage => storage.begin_prompt(plan, first))
    }

    /// Stores rows of the process's memory: keys and values of some tokens, and their queries, where they are to be observed.
    pub(crate) fn store(&mut self, plan: &CachePlan, [keys, values, queries]: [&[f32]; 3]) -> Result<()> {
        let tokens = keys.len() / plan.shape.attention.kv_row();
        match self {
            Self::Cpu(storage) => {
                storage.append(plan, tokens, keys, values)?;
                if queries.is_empty() { Ok(()) } else { storage.observe(plan, tokens, queries) }
            }
            Self::Device(storage) => storage.store(plan, [keys, values, queries]),
        }
    }

    pub(crate) fn score(&self, plan: &CachePlan, score: Score) -> Result<Option<Vec<Vec<f32>>>> {
        on!(self, storage => storage.score(plan, score))
    }

    pub(crate) fn gather(&mut self, plan: &CachePlan, survivors: &[Vec<usize>]) -> Result<()> {
        on!(self, storage => storage.gather(plan, survivors))
    }

    pub(crate) fn quantize(&mut self, plan: &CachePlan) -> Result<()> {
        on!(self, storage => storage.quantize(plan))
    }

    pub(crate) fn removable(&self) -> usize {
        on!(self, storage => storage.removable())
    }

    pub(crate) fn truncate(&mut self, tokens: usize) {
        on!(self, storage => storage.truncate(tokens))
    }

    pub(crate) fn shareable(&self) -> usize {
        on!(self, storage => storage.shareable())
    }

    pub(crate) fn share(&mut self) -> SharedLayer {
        match self {
            Self::Cpu(storage) => SharedLayer::Cpu(storage.share()),
            Self::Device(storage) => SharedLayer::Device(storage.share()),
        }
    }

    /// Whether this may begin with what was shared: it is on the same device, and in the form in which prompts are computed.
    pub(crate) fn fits(&self, shared: &SharedLayer, plan: &CachePlan) -> bool {
        match (self, shared) {
            (Self::Cpu(_), SharedLayer::Cpu(shared)) => CpuLayer::fits(shared, plan),
            (Self::Device(layer), SharedLayer::Device(shared)) => {
                layer.dense().is_beside(shared) && DeviceLayer::fits(shared, plan)
            }
            _ => false,
        }
    }

    pub(crate) fn begin_with(&mut self, shared: &SharedLayer, tokens: usize) {
        match (self, shared) {
            (Self::Cpu(storage), SharedLayer::Cpu(shared)) => storage.begin_with(shared, tokens),
            (Self::Device(storage), SharedLayer::Device(shared)) => storage.begin_with(shared, tokens),
            _ => {}
        }
    }
}
