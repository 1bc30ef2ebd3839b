//! What kernels are compiled for in use.

use sparkv_device::kernel::{Constants, MAX_QUERIES, RowConstants};

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

fn of(pairs: impl Fn(u32) -> Vec<(RowConstants, RowConstants)>, queries: &[u32]) -> Vec<Constants> {
    let mut all = Vec::new();
    for head_dim in HEAD_DIMS {
        for (keys, values) in pairs(head_dim) {
            all.extend(queries.iter().map(|&queries| Constants { head_dim, queries, keys, values }));
        }
    }
    all
}

/// Numbers of queries that a warp takes together.
fn queries() -> Vec<u32> {
    (0..).map(|power| 1 << power).take_while(|&queries| queries <= MAX_QUERIES as u32).collect()
}

/// What a kernel is compiled for; `None` of a kernel that is not known here.
pub(crate) fn of_kernel(kernel: &str) -> Option<Vec<Constants>> {
    Some(match kernel {
        "move_lines" => vec![Constants::NONE],
        "append" => of(|_| DENSE.to_vec(), &[1]),
        _ => return None,
    })
}
