//! Cache row formats and the attention over them: slices in, slices out, no tensors.
//!
//! A **row** is one token's key or value vector of one KV head, `head_dim` channels. [`RowLayout`] says how
//! a row is stored: dense in f32, f16 or int8, or **packed**, with only the most salient channels kept and
//! the others recovered as a sign times one magnitude ([`packed`]). All rows of a layout have the same
//! number of bytes, so offsets are computed and never stored.
//!
//! [`attend_tile`] computes attention for a tile of queries over runs of such rows. It reads every row once
//! for the whole tile (the query heads of a group, and in prefill many positions), decodes it into a block
//! that stays in the first-level cache, and never holds a dense copy of more than [`KEY_BLOCK`] rows.
//!
//! The scalar reference is plain Rust, and the oracle for every faster kernel. Only these, in `arch`, hold
//! unsafe code.

#[allow(unsafe_code, reason = "loads and stores of vectors, and functions compiled for one processor")]
mod arch;
pub mod attention;
mod bits;
pub mod block;
pub mod dense;
mod isa;
mod lanes;
pub mod layout;
pub mod packed;
pub mod row;
pub mod seal;
pub mod select;
mod vector;

pub use attention::{KEY_BLOCK, KvRun, QueryTile, Rows, TileScratch, attend_tile};
pub use isa::Isa;
pub use packed::{Fill, KeptFormat, PackedLayout};
pub use row::{LayoutError, MAX_HEAD_DIM, RowFormat, RowLayout};
pub use seal::seal;
pub use vector::{dot, softmax_probability};
