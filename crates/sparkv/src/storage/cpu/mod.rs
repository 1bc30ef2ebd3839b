//! Storage in the process's memory, and attention over it by the kernels for this processor.
//!
//! From the bottom: `chunk` is memory, `row_store` the rows of one side in it, `kv_rows` both sides, `head` a KV head's
//! quantized blocks and dense rows, `layer` all heads. `moments` is what has to be known of rows before they are quantized,
//! and `domain` does to them what follows from it. `observed` holds what is needed of a prompt's queries (`window`, `sample`);
//! `attend` reads it all.

pub(crate) mod attend;
mod chunk;
mod domain;
#[cfg(test)]
mod golden;
mod head;
mod kv_rows;
mod layer;
mod moments;
mod observed;
mod row_store;
mod sample;
mod window;

pub(crate) use layer::CpuLayer;
