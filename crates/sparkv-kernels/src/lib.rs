//! Cache row formats and the attention over them, products with matrices of weights, and what else is done to rows of activations:
//! slices in, slices out, no tensors.
//!
//! A **row** of a cache is one token's key or value vector of one KV head, `head_dim` channels. The crate is laid out by what is
//! done with rows:
//!
//! - [`format`](mod@format): bytes, and the reference that defines them. [`Layout`] says how rows are stored: [`dense`], one by one,
//!   in f32 or f16; or in blocks of [`BLOCK`] ([`block`]): quantized, in int8 or fewer bits ([`Widths`]), or **packed**, with only the most
//!   salient channels kept and the others recovered as a sign times one magnitude ([`Packing`]). All rows of a layout
//!   take the same number of bytes, so offsets are computed and never stored, and elements lie in the order in which
//!   kernels want them.
//! - `simd`: vectors and their instances for each instruction set ([`Isa`]): operations, nothing else. Work is written
//!   once over them, compiled for each, and dispatched at run time.
//! - [`quantize`](mod@quantize): blocks are written, to the same bytes on every instruction set.
//! - [`attention`]: [`attend_tile`] computes attention for a tile of queries over runs of rows. It reads every row from
//!   memory once for the whole tile (the query heads of a group, and in prefill many positions), and never holds a
//!   copy of more than [`KEY_BLOCK`] rows, a byte an element, or [`BLOCK`] in f32. How quantized rows are read is a trait
//!   of its own beside its kernels (`attention/quantized`), implemented for each instruction set.
//! - [`matmul`]: products with [`PackedMatrix`](matmul::PackedMatrix)es of weights, of any of GGUF's types.
//! - [`parallel`]: the pool of threads. Products use it by themselves; who calls the others shares work out.
//! - [`elementwise`]: what happens to rows of activations between matrix products: norm, activation, rotation, sum.
//!
//! **A row format more** is a file in `format/` with its reference, and a line or an arm in `format/mod.rs`,
//! `format/layout.rs` and `format/block.rs`: then every operation knows it, by the reference. What makes it fast is said
//! in `quantize/` and `attention/quantized/`, for the instruction sets where it pays.
//!
//! Where there are products of bytes (AVX-512 and its byte instructions, AVX2, the integer dot products of 64-bit Arm), rows in
//! int8 and below are multiplied as integers, and so are packed ones. Elsewhere they are first read back into f32, block by
//! block. With AVX2, packed rows are spread out first, which takes longer than all else: pruning saves memory there, but no
//! time. `docs/cache-layout.md` has the figures. The kernels for Arm are tested in an emulator; nothing was measured there.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod attention;
pub mod elementwise;
pub mod format;
pub mod matmul;
pub mod parallel;
pub mod quantize;
mod simd;

pub use attention::{
    KEY_BLOCK, KvRun, Partial, QueryTile, TileScratch, attend_tile, attend_tile_with, score_rows,
    softmax_weight,
};
pub use format::{
    BLOCK, Fill, Format, GROUP, KeptFormat, Layout, LayoutError, MAX_HEAD_DIM, Packing, Rows, SET, Side,
    Widths, block, dense, half_step,
};
pub use quantize::quantize;
pub use simd::Isa;
