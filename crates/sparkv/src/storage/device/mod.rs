//! Storage on a device, and attention over it by our kernels.
//!
//! From the bottom: `lines` and `memory` are the pool, `store` rows in it, `layer` what a sequence's layer holds. `domains` are
//! the tables of what is done to rows before they are quantized, `observed` what is noted of a prompt's queries; `attend`
//! reads it all. What is where follows from the same arithmetic as on the CPU (`extent`, `plan`); a device only lays all KV
//! heads of a layer into one chunk.

pub(crate) mod attend;
mod domains;
pub(crate) mod layer;
mod lines;
pub(crate) mod memory;
mod observed;
mod rows;
mod store;
