//! Kernels for the vector instructions of one architecture each.

#[cfg(target_arch = "x86_64")]
mod shuffles;
#[cfg(target_arch = "x86_64")]
mod weights;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
