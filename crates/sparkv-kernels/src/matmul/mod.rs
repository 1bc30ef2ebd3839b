//! Products of activations with matrices of weights.
//!
//! A [`PackedMatrix`] is made once, from a file's rows, and holds what the file holds, in panels of 16 rows. Its products
//! are computed a panel at a time, for all rows of activations, so that weights are read from memory once: with one
//! row, memory is what takes time, with many, arithmetic. Activations are rounded, every 32 of them, to bytes; dense weights
//! take them as they are. A decoder layer takes few rounds of the threads: [`multiply`] does the norm and the rounding once for all
//! products that share them, and adds to what is there, if that is asked; [`add_gated`] is a whole feed-forward block.
//!
//! Each result is computed in one order, whatever other rows there are: **a row's results do not depend on the
//! batch**, to the bit.
#[allow(unsafe_code, reason = "threads write to places of their own; see there")]
mod activations;
mod blocks;
mod codes;
#[allow(unsafe_code, reason = "threads write to places of their own; see there")]
mod disjoint;
mod kernel;
#[allow(unsafe_code, reason = "threads write to places of their own; see there")]
mod multiply;
mod packed_matrix;
mod weight_type;

pub use multiply::{Affine, Gated, Input, Output, ShapeError, add_gated, multiply};
pub use packed_matrix::{PackError, PackedMatrix};
pub use weight_type::WeightType;

#[cfg(test)]
mod tests;
