//! Rows in bytes: how they are laid out, and the reference that defines the bytes.
//!
//! A [`Layout`] says how rows are stored: one by one ([`dense`]), or [`BLOCK`] at a time ([`block`]): quantized, in int8
//! or fewer bits ([`Widths`]), or packed. Code here is plain Rust that looks at every element in turn; what is faster gives the same
//! bytes ([`crate::quantize`](mod@crate::quantize)), or reads them ([`crate::attention`]).

mod bits;
pub mod block;
pub mod dense;
pub(crate) mod float16;
pub(crate) mod lanes;
mod layout;
pub(crate) mod packed;
pub(crate) mod packing;
pub(crate) mod planes;
pub(crate) mod quantized;
mod rows;
pub(crate) mod sections;
pub(crate) mod selection;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod widths;

pub use layout::{Format, Layout, LayoutError};
pub use packing::{Fill, KeptFormat, Packing};
pub use rows::Rows;
pub use widths::{SET, Widths, half_step};

/// Rows of a dense store are laid out in groups of this many: one token per lane of a 512-bit register.
pub const GROUP: usize = 16;

/// Rows of a quantized block.
pub const BLOCK: usize = 32;

/// The largest head_dim: buffers for a row are of this size, on the stack.
pub const MAX_HEAD_DIM: usize = 512;

/// Bytes of a stored f16.
pub(crate) const F16_BYTES: usize = 2;

/// What a store holds. Scores want tokens side by side, weighted sums want channels side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}
