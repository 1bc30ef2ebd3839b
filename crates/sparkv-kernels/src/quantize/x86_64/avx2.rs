//! Quantizing with AVX2: the plain code, compiled for it.

use crate::format::Layout;
use crate::quantize::words;
use crate::simd::x86_64::Avx2;

/// As [`words::quantize`].
pub(crate) fn quantize(_simd: Avx2, layout: &Layout, rows: &[f32], bytes: &mut [u8]) -> bool {
    // SAFETY: a value of `Avx2` is proof that the processor has these instructions.
    unsafe { compiled(layout, rows, bytes) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn compiled(layout: &Layout, rows: &[f32], bytes: &mut [u8]) -> bool {
    words::quantize(layout, rows, bytes)
}
