//! The largest logits, so that a sampler that wants no others needs no more of them.

use crate::device::Device;
use crate::error::DeviceError;
use crate::kernel::Constants;
use crate::launch::{Launch, View, words};

const KERNEL: &str = "top_k";

/// Logits of a row that a group looks at; as in `kernels/top_k.inc`.
const PIECE: usize = 2048;

/// How many of a row's logits can be asked for.
pub const MAX_TOP_K: usize = 64;

/// What [`top_k`] finds in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogits {
    /// Whether any of the row's logits is NaN.
    pub has_nan: bool,
    /// Index and logit of the largest finite ones, largest first, of equals the lower index first. Fewer than were asked for
    /// only if there are no more.
    pub logits: Vec<(u32, f32)>,
}

impl TopLogits {
    /// Of a row's words.
    pub fn of(words: &[u32]) -> Self {
        let (flag, ranks) = words.split_at(words.len().min(1));
        let ranks = ranks.as_chunks().0.iter().take_while(|[index, _]| *index != u32::MAX);
        Self {
            has_nan: flag != [0],
            logits: ranks.map(|[index, logit]| (*index, f32::from_bits(*logit))).collect(),
        }
    }
}

/// Words of u32 that [`top_k`] writes of each row.
pub fn top_k_words(k: usize) -> usize {
    1 + 2 * k
}

/// Bytes of scratch memory that [`top_k`] takes for (`rows`, `vocabulary`) logits.
pub fn top_k_scratch_bytes([rows, vocabulary]: [usize; 2], k: usize) -> usize {
    rows * vocabulary.div_ceil(PIECE) * top_k_words(k) * size_of::<u32>()
}

/// Writes to `found`, (rows, [`top_k_words`]), which are the `k` largest of each row of (rows, vocabulary) `logits`, f32:
/// what [`TopLogits::of`] reads.
///
/// # Errors
/// If more than [`MAX_TOP_K`] are asked for, or none, something does not fit its memory, or the device fails.
pub fn top_k(
    device: &Device,
    shape: [usize; 2],
    k: usize,
    logits: View<'_>,
    scratch: View<'_>,
    found: View<'_>,
) -> Result<(), DeviceError> {
    let [rows, vocabulary] = shape;
    if k == 0 || k > MAX_TOP_K {
        return Err(DeviceError::unfit(KERNEL, format!("{k} is not within 1 and {MAX_TOP_K}")));
    }
    let count = rows
        .checked_mul(vocabulary)
        .ok_or_else(|| DeviceError::unfit(KERNEL, format!("{rows} rows of {vocabulary}")))?;
    logits.check(KERNEL, [count, size_of::<f32>()], false)?;
    scratch.check(KERNEL, [top_k_scratch_bytes(shape, k), 1], true)?;
    found.check(KERNEL, [rows, top_k_words(k) * size_of::<u32>()], true)?;
    let pieces = vocabulary.div_ceil(PIECE);
    let plan = words(KERNEL, [vocabulary, pieces, k])?;
    let arguments = [logits.read_only(), scratch];
    launch(device, "top_k_of_pieces", rows * pieces, &arguments, &plan)?;
    launch(device, "top_k_of_rows", rows, &[scratch.read_only(), found], &plan)
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
    // SAFETY: there are as many rows of logits, and room for a record of each piece and row.
    unsafe { device.launch(&launch) }
}
