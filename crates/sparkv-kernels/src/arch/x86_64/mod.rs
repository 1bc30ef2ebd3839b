//! Kernels for x86-64.

pub(crate) mod seal;
pub(crate) mod seal_avx2;
