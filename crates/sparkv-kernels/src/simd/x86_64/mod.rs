//! Vectors for x86-64.

mod avx2;
mod avx512;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

pub(crate) use self::avx2::Avx2;
pub(crate) use self::avx512::Avx512;

/// Asks for the line at `address`.
#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: a prefetch of any address is harmless.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}
