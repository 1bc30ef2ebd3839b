//! Packing with AVX2: the plain code, compiled for it.

use crate::isa::{Isa, Kind};
use crate::layout::Layout;
use crate::quantize::words;
use crate::select::Packing;

/// As [`words::quantize_packed`].
///
/// # Panics
/// If `isa` is not AVX2.
pub(crate) fn quantize_packed(isa: Isa, layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    assert_eq!(isa.0, Kind::Avx2);
    // SAFETY: a value of `Isa` is proof that the processor has these instructions.
    unsafe { compiled(layout, packing, rows, bytes) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn compiled(layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    words::quantize_packed(layout, packing, rows, bytes);
}
