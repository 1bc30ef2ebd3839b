//! Kernels for GPUs: rows of caches, and attention over them.
//!
//! The kernels (`kernels/`) are one text in a subset of C++ that CUDA, Metal and a C++ compiler take, with a prefix of macros
//! for each. On a GPU they are compiled when they are first needed, for the device at hand. The third form is a device that
//! is simulated (feature `shim`): it runs lanes as coroutines, in an order shuffled anew each time, and fails where a GPU would
//! go wrong without a word: reads behind the end of memory, words that two lanes touch without a barrier, lanes that wait for
//! different things. All tests run there.
//!
//! From the bottom: [`Device`] is where memory is and kernels run; [`kernel`] says which there are and what they are compiled
//! for; [`rows`] where the rows of caches lie. Above that, a file for each thing to be done: each checks what it is given,
//! writes the kernel's plan (sizes, and work items that say where), and launches. What is launched is unsafe, what can be
//! called from outside is not: an address that a kernel computes from a plan that was checked is within the memory that it was
//! given.
//!
//! The bytes of rows are those of [`sparkv_kernels`], to the last bit, whatever the device.

#![deny(unsafe_op_in_unsafe_fn)]
#![cfg_attr(
    not(any(feature = "shim", feature = "cuda", feature = "metal")),
    allow(
        dead_code,
        unused_imports,
        unused_variables,
        unreachable_code,
        reason = "a build without any device"
    )
)]

mod append;
mod attention;
mod copy;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "launches of kernels, and calls of the driver and the compiler")]
pub mod cuda;
mod device;
mod elementwise;
mod error;
pub mod kernel;
mod launch;
mod mass;
#[cfg(feature = "metal")]
#[allow(unsafe_code, reason = "launches of kernels, and memory that the driver gives")]
pub mod metal;
mod moments;
mod move_lines;
mod places;
mod quantize;
mod queries;
pub mod rows;
#[cfg(feature = "shim")]
#[allow(unsafe_code, reason = "calls of compiled kernels, and the memory that they are given")]
mod shim;
mod tables;
mod top_k;

pub use append::{RowPlace, append};
pub use attention::{AttentionMemory, AttentionPlan, AttentionShape, AttentionSpan, StoredRows};
pub use copy::copy_rows;
pub use device::{Device, Memory};
pub use elementwise::{Angles, RmsNorm, add, add_rms_norm, rms_norm, rotate, silu_times};
pub use error::DeviceError;
pub use launch::View;
pub use mass::{Mass, Observation, Observed, Prompt, mass, mass_scratch_bytes};
pub use moments::{MOMENTS, moments, moments_scratch};
pub use move_lines::move_lines;
pub use places::Places;
pub use quantize::quantize;
pub use queries::{HeldQuery, QueryStatistic, observe, query_energy};
#[cfg(feature = "shim")]
pub use shim::{Checks, Shim};
pub use tables::{KeyDomain, Tables};
pub use top_k::{MAX_TOP_K, TopLogits, top_k, top_k_scratch_bytes, top_k_words};
