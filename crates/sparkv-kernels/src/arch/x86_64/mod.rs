//! Kernels for x86-64.

mod avx2;
mod avx512;
mod codes;
mod expand;
mod expand_avx2;
mod packed;
pub(crate) mod quantize;
pub(crate) mod quantize_avx2;
mod quantized;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use self::avx2::Avx2;
use self::avx512::Avx512;
use crate::isa::{Isa, Kind, Task};
use crate::simd::Simd;

/// Does `task` with AVX2.
///
/// # Panics
/// If `isa` is something else.
pub(crate) fn with_avx2<T: Task>(isa: Isa, task: T) -> T::Output {
    assert_eq!(isa.0, Kind::Avx2);
    // SAFETY: the value of `isa` is proof of the instructions.
    unsafe { Avx2::new() }.outline(task)
}

/// Does `task` with AVX-512.
///
/// # Panics
/// If `isa` is something else.
pub(crate) fn with_avx512<T: Task>(isa: Isa, task: T) -> T::Output {
    assert_eq!(isa.0, Kind::Avx512);
    // SAFETY: the value of `isa` is proof of the instructions.
    unsafe { Avx512::new() }.outline(task)
}

/// Asks for the line at `address`.
#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: a prefetch of any address is harmless.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}
