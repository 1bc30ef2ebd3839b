//! Quantized blocks read on x86-64.

mod avx2;
mod avx512;
