//! Where rows are held: the verbs that a device must have ([`LayerStorage`]), and the devices that have them.
//!
//! What a plan says is arithmetic (`plan`); that what is said happens is the storage's business. One value of it holds
//! one layer of one sequence, all of its KV heads, so that a device may lay heads out as it likes and work on them at
//! once. Attention over it is the device's, too, but goes over many sequences at a time: see [`crate::attend`].
//!
//! What all devices have in common: `extent` is the bookkeeping of rows, `domain` what is done to rows before they are
//! quantized, and `allocation` how bits are shared among the channels of keys.

mod allocation;
pub(crate) mod cpu;
pub(crate) mod device;
mod domain;
mod extent;

mod layer;
mod query_slots;

pub(crate) use layer::{Layer, SharedLayer};

use candle_core::Result;

use crate::eviction::Score;
use crate::plan::CachePlan;

/// One layer's rows of one sequence. All KV heads hold as many tokens.
///
/// While the prompt is computed, its rows are appended as they are, and its queries observed, as far as the plan needs
/// them. [`LayerStorage::gather`] then keeps what survives, in the forms that the plan says. Rows that follow are
/// appended to a dense tail, which [`LayerStorage::quantize`] shortens by a block when it is full.
///
/// Whatever takes memory or computes may fail on a device, and never does on the CPU. What it was to change is useless then.
pub(crate) trait LayerStorage {
    /// Rows of a batch, where the device has them.
    type Rows<'a>;

    /// The first tokens, as other sequences may begin with them: held once, written no more.
    type Shared: Clone;

    /// Tokens stored.
    fn len(&self) -> usize;

    /// Bytes held; of shared rows, what they would take alone.
    fn bytes(&self) -> usize;

    /// Bytes that the next token may allocate; what it frees is not counted.
    fn next_bytes(&self, plan: &CachePlan) -> usize;

    /// Tokens that may be appended before [`LayerStorage::quantize`] has to be called.
    fn room(&self, plan: &CachePlan) -> usize;

    /// Makes room for the prompt, the first query of which that is seen will be that of the position `first`.
    fn begin_prompt(&mut self, plan: &CachePlan, first: usize) -> Result<()>;

    /// Stores further tokens, at most [`LayerStorage::room`]; `keys` and `values`: (tokens, kv_heads * head_dim).
    fn append(
        &mut self,
        plan: &CachePlan,
        tokens: usize,
        keys: Self::Rows<'_>,
        values: Self::Rows<'_>,
    ) -> Result<()>;

    /// Takes note of the prompt's queries, (tokens, query_heads * head_dim), times the scale of attention, as far as the
    /// plan needs them.
    fn observe(&mut self, plan: &CachePlan, tokens: usize, queries: Self::Rows<'_>) -> Result<()>;

    /// What each token of the prompt scores (tokens), by KV head; `None` where what it takes was not observed.
    fn score(&self, plan: &CachePlan, score: Score) -> Result<Option<Vec<Vec<f32>>>>;

    /// Ends the prompt: keeps the tokens `survivors` of each KV head, as many of each, in order, in the forms that the plan
    /// says.
    fn gather(&mut self, plan: &CachePlan, survivors: &[Vec<usize>]) -> Result<()>;

    /// Quantizes the block of the tail that left the window, if the tail is full.
    fn quantize(&mut self, plan: &CachePlan) -> Result<()>;

    /// Tokens at the end that [`LayerStorage::truncate`] can take back, so that all is as if they had never come.
    fn removable(&self) -> usize;

    /// Takes back the last `tokens` tokens, at most [`LayerStorage::removable`].
    fn truncate(&mut self, tokens: usize);

    /// Tokens that [`LayerStorage::share`] would give.
    fn shareable(&self) -> usize;

    /// Gives the first tokens to other sequences; they stay in this one. A device that fails here says so when it is next asked
    /// to quantize.
    fn share(&mut self) -> Self::Shared;

    /// Whether what was shared is in the form in which the plan computes prompts.
    fn fits(shared: &Self::Shared, plan: &CachePlan) -> bool;

    /// Begins with the first `tokens` tokens of another sequence. To be called while this is empty.
    fn begin_with(&mut self, shared: &Self::Shared, tokens: usize);
}
