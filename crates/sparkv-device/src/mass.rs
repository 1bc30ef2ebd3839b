//! How much attention the tokens of a prompt get, by which those that are kept are chosen.

use sparkv_kernels::GROUP;

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View, words};
use crate::rows::{LINE, Run, Units};

const KERNEL: &str = "mass";

/// Queries that a group scores together, rows that it scores at a time, and rows of a split; as in `kernels/mass.inc`.
const TILE_QUERIES: usize = 8;
const TILE_ROWS: usize = 64;
const SPLIT_ROWS: usize = 2048;

/// The rows of a prompt, dense, in order.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// How they lie.
    pub units: &'a Units,
    /// The memory that they are in.
    pub pool: View<'a>,
    /// Where.
    pub runs: &'a [Run],
}

/// Queries of a prompt, after RoPE and times the attention scale.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// (slots, query_heads * head_dim), f32
    pub queries: View<'a>,
    /// Query heads.
    pub query_heads: usize,
    /// Those that look at the prompt, in the order in which they are summed.
    pub positions: &'a [Observation],
}

/// The queries of one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Which of the slots has them.
    pub slot: u32,
    /// How many of the prompt's tokens they see, from the first on; one at least.
    pub seen: u32,
}

/// What is asked of each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mass {
    /// The attention that it gets.
    Attention,
    /// That, times the length of its value: what it contributes.
    Contribution,
}

/// Bytes of scratch memory that [`mass`] takes for a prompt of `tokens` tokens and so many `queries`: positions times
/// query heads.
pub fn mass_scratch_bytes(tokens: usize, queries: usize) -> usize {
    2 * size_of::<f32>() * queries * (tokens.div_ceil(SPLIT_ROWS) + 1)
}

/// Writes to `masses`, (KV heads, tokens), f32, the weights that each token gets in the softmax of each observed query over
/// the tokens that it sees, summed over the positions and over the query heads of the KV head.
///
/// All in f32, in an order that depends on nothing but the number of tokens and queries.
///
/// # Errors
/// If rows are not dense, something does not fit its memory, queries see nothing or more than there is, or the device fails.
pub fn mass(
    device: &Device,
    what: Mass,
    prompt: Prompt<'_>,
    observed: Observed<'_>,
    scratch: View<'_>,
    masses: View<'_>,
) -> Result<(), DeviceError> {
    let units = prompt.units;
    let tokens = prompt.tokens()?;
    let (positions, heads) = (observed.positions.len(), units.heads);
    observed.check(units, tokens)?;
    let queries = positions.checked_mul(observed.query_heads).ok_or_else(|| too_many(&observed))?;
    scratch.check(KERNEL, [mass_scratch_bytes(tokens, queries), 1], true)?;
    masses.check(KERNEL, [heads * tokens, size_of::<f32>()], true)?;
    words(KERNEL, [queries])?;
    let plan = plan(what, &prompt, &observed, tokens)?;
    let constants = Constants::new(&units.keys, &units.values, false, 1);
    let (pool, seen_by) = (prompt.pool.read_only(), observed.queries.read_only());
    let tiles = (queries / heads.max(1)).div_ceil(TILE_QUERIES);
    let launch = |kernel, groups, sums, masses| {
        let arguments = [pool, seen_by, sums, masses];
        launch(device, Launch { kernel, constants, groups, arguments: &arguments, plan: &plan })
    };
    launch("mass_of_splits", heads * tokens.div_ceil(SPLIT_ROWS) * tiles, scratch, scratch)?;
    launch("mass_of_queries", queries.div_ceil(32), scratch, scratch)?;
    launch("mass_of_rows", heads * tokens.div_ceil(TILE_ROWS), scratch.read_only(), masses)
}

impl Prompt<'_> {
    /// How many there are, in units that are in the pool, and full but for the last.
    fn tokens(&self) -> Result<usize, DeviceError> {
        if !self.units.is_dense() {
            return Err(DeviceError::unfit(KERNEL, "rows of a prompt are dense"));
        }
        self.units.check(KERNEL, &self.pool, self.runs)?;
        if let Some((_, runs)) = self.runs.split_last()
            && let Some(run) = runs.iter().find(|run| !(run.rows as usize).is_multiple_of(GROUP))
        {
            return Err(DeviceError::unfit(KERNEL, format!("{run:?} is no whole units, and not the last")));
        }
        Ok(self.runs.iter().map(|run| run.rows as usize).sum())
    }
}

impl Observed<'_> {
    /// Checks that there are such queries, of as many heads to each KV head, and that each sees some of the tokens.
    fn check(&self, units: &Units, tokens: usize) -> Result<(), DeviceError> {
        let Self { query_heads, positions, .. } = *self;
        if units.heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(units.heads) {
            let reason = format!("{query_heads} query heads share {} KV heads", units.heads);
            return Err(DeviceError::unfit(KERNEL, reason));
        }
        let wrong = |of: &&Observation| of.seen == 0 || of.seen as usize > tokens;
        if let Some(of) = positions.iter().find(wrong) {
            return Err(DeviceError::unfit(KERNEL, format!("{of:?} of a prompt of {tokens} tokens")));
        }
        let slots = positions.iter().map(|of| of.slot as usize + 1).max().unwrap_or(0);
        let row = query_heads.checked_mul(units.keys.head_dim()).ok_or_else(|| too_many(self))?;
        let values = slots.checked_mul(row).ok_or_else(|| too_many(self))?;
        self.queries.check(KERNEL, [values, size_of::<f32>()], false)
    }
}

fn too_many(observed: &Observed<'_>) -> DeviceError {
    DeviceError::unfit(KERNEL, format!("{} query heads", observed.query_heads))
}

/// What `kernels/mass.inc` reads.
fn plan(
    what: Mass,
    prompt: &Prompt<'_>,
    observed: &Observed<'_>,
    tokens: usize,
) -> Result<Vec<u32>, DeviceError> {
    let Prompt { units, runs, .. } = *prompt;
    let mut plan = units.words().to_vec();
    plan.extend(words(KERNEL, [tokens, observed.positions.len(), observed.query_heads / units.heads])?);
    plan.push(u32::from(what == Mass::Contribution));
    plan.extend(observed.positions.iter().flat_map(|of| [of.slot, of.seen]));
    for run in runs {
        for unit in 0..(run.rows as usize).div_ceil(GROUP) {
            plan.extend(words(KERNEL, [run.line as usize + unit * units.bytes() / LINE])?);
        }
    }
    Ok(plan)
}

#[allow(unsafe_code, reason = "launches what was checked")]
fn launch(device: &Device, launch: Launch<'_>) -> Result<(), DeviceError> {
    // SAFETY: all units are in the pool and all slots among the queries, and there is room for what is written.
    unsafe { device.launch(&launch) }
}
