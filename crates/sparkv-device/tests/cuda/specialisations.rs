//! What kernels are compiled for in use.

use sparkv_device::kernel::{Constants, MATRIX_ROWS, MAX_PROMPT_HEAD_DIM, MAX_QUERIES, RowConstants};

/// Sizes of heads: those of Llama, Mistral and Qwen.
const HEAD_DIMS: [u32; 2] = [64, 128];

const F32: RowConstants = RowConstants { format: 0, bits: 0, kept: 0 };
const F16: RowConstants = RowConstants { format: 1, bits: 0, kept: 0 };
const INT8: RowConstants = RowConstants { format: 2, bits: 8, kept: 0 };
/// Keys each of whose sets of channels has bits of its own.
const ALLOTTED: RowConstants = planes(0);

const fn planes(bits: u32) -> RowConstants {
    RowConstants { format: 3, bits, kept: 0 }
}

const fn packed(kept: u32) -> RowConstants {
    RowConstants { format: 4, bits: 8, kept }
}

/// Pairs of rows that settings lead to: keys, values.
fn quantized(head_dim: u32) -> Vec<(RowConstants, RowConstants)> {
    let mut pairs = vec![(INT8, INT8), (INT8, F16), (F16, INT8)];
    pairs.extend((2..=6).map(|bits| (planes(bits), planes(bits))));
    pairs.extend((2..=6).map(|bits| (ALLOTTED, planes(bits))));
    let kept = [head_dim / 2, head_dim / 4, head_dim - head_dim * 4 / 5];
    pairs.extend(kept.map(|kept| (packed(kept), packed(kept))));
    pairs.push((packed(head_dim / 4), INT8));
    pairs
}

const DENSE: [(RowConstants, RowConstants); 2] = [(F16, F16), (F32, F32)];

/// Channels of all queries that a warp takes together, at most; as in src/attention/plan.rs.
const DENSE_CHANNELS: u32 = 2048;
const QUANTIZED_CHANNELS: u32 = 1024;

fn of(pairs: impl Fn(u32) -> Vec<(RowConstants, RowConstants)>) -> Vec<Constants> {
    let with = |head_dim| {
        pairs(head_dim).into_iter().map(move |(keys, values)| Constants {
            head_dim,
            queries: 1,
            keys,
            values,
        })
    };
    HEAD_DIMS.into_iter().flat_map(with).collect()
}

fn dense_or_quantized(head_dim: u32) -> Vec<(RowConstants, RowConstants)> {
    [DENSE.to_vec(), quantized(head_dim)].concat()
}

/// With each number of queries that a warp takes together.
fn with_queries(constants: &Constants) -> Vec<Constants> {
    let dense = DENSE.contains(&(constants.keys, constants.values));
    let channels = if dense { DENSE_CHANNELS } else { QUANTIZED_CHANNELS };
    let most = (channels / constants.head_dim).min(MAX_QUERIES as u32);
    let powers = (0..).map(|power| 1 << power).take_while(|&queries| queries <= most);
    powers.map(|queries| Constants { queries, ..*constants }).collect()
}

/// 16 queries at a time, or 32 where there are registers for so many.
fn prompts() -> Vec<Constants> {
    let with =
        |head_dim, count| Constants { head_dim, queries: count * MATRIX_ROWS as u32, keys: F16, values: F16 };
    let sizes = HEAD_DIMS.into_iter().flat_map(|head_dim| [with(head_dim, 1), with(head_dim, 2)]);
    sizes.chain([with(MAX_PROMPT_HEAD_DIM as u32, 1)]).collect()
}

/// What a kernel is compiled for; `None` of a kernel that is not known here.
pub(crate) fn of_kernel(kernel: &str) -> Option<Vec<Constants>> {
    Some(match kernel {
        "move_lines" | "rms_norm" | "add_rms_norm" | "add" | "silu_times" | "rotate" | "top_k_of_pieces"
        | "top_k_of_rows" => vec![Constants::NONE],
        "append" | "copy_rows" | "sum_pieces" | "add_pieces" | "observe" | "query_energy"
        | "mass_of_splits" | "mass_of_queries" | "mass_of_rows" => of(|_| DENSE.to_vec()),
        "quantize" => of(quantized),
        "attend" => of(dense_or_quantized).iter().flat_map(with_queries).collect(),
        "attend_prompt" => prompts(),
        "merge" => HEAD_DIMS.map(|head_dim| Constants { head_dim, ..Constants::NONE }).to_vec(),
        _ => return None,
    })
}
