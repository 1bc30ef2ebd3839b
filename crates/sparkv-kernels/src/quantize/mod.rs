//! Quantizing: a block of rows is pruned, rounded and packed. The same bytes as [`crate::format::block::encode`], faster.

mod words;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions; behind safe functions")]
mod x86_64;

use crate::format::{Format, Layout, Widths, block, planes};
#[cfg(target_arch = "x86_64")]
use crate::simd::Kind;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86_64::{Avx2, Avx512};
use crate::simd::{Isa, Task, dispatch};

/// Quantizes `rows` ([`crate::BLOCK`], head_dim) into `bytes` ([`Layout::unit_bytes`]). `weights` (head_dim): what a
/// channel's squared error counts where rows of few bits are rounded; empty where all count alike.
///
/// # Panics
/// If the lengths are not those, or the layout is not quantized.
pub fn quantize(layout: &Layout, rows: &[f32], weights: &[f32], bytes: &mut [u8]) {
    quantize_with(Isa::best(), layout, rows, weights, bytes);
}

/// As [`quantize`], with the instructions of `isa`. What there is nothing faster for, the reference writes.
///
/// # Panics
/// As [`quantize`].
pub fn quantize_with(isa: Isa, layout: &Layout, rows: &[f32], weights: &[f32], bytes: &mut [u8]) {
    block::check(layout, rows.len(), bytes.len());
    if let Format::Planes(widths) = layout.format() {
        return dispatch(isa, EncodePlanes { layout, widths: &widths, rows, weights, bytes });
    }
    let is_done = match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => x86_64::avx512::quantize(Avx512::new(isa), layout, rows, bytes),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => x86_64::avx2::quantize(Avx2::new(isa), layout, rows, bytes),
        _ => words::quantize(layout, rows, bytes),
    };
    if !is_done {
        block::encode(layout, rows, weights, bytes);
    }
}

/// [`planes::encode`], compiled for each instruction set.
struct EncodePlanes<'a> {
    layout: &'a Layout,
    widths: &'a Widths,
    rows: &'a [f32],
    weights: &'a [f32],
    bytes: &'a mut [u8],
}

impl<S> Task<S> for EncodePlanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, _: S) {
        planes::encode(self.layout, self.widths, self.rows, self.weights, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{any_packing, any_rows, any_side, quantized_formats};
    use crate::format::{BLOCK, Format, Packing, Side};

    /// The reference and every instruction set agree, whatever was in the bytes before.
    fn assert_same(side: Side, format: Format, rows: &[f32]) {
        let layout = Layout::new(side, rows.len() / BLOCK, format).unwrap();
        let weights: Vec<f32> =
            (0..layout.head_dim()).map(|channel| 1.0 / (1 + channel % 5) as f32).collect();
        let weights = &weights[..if rows[0] > 0.0 { layout.head_dim() } else { 0 }];
        let mut expected = vec![0x5a; layout.unit_bytes()];
        block::encode(&layout, rows, weights, &mut expected);
        for isa in Isa::available() {
            let mut bytes = vec![0xa5; layout.unit_bytes()];
            quantize_with(isa, &layout, rows, weights, &mut bytes);
            let differs = bytes.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "byte of {layout:?}, {}", isa.name());
        }
    }

    fn assert_all_same(rows: &[f32], kept: usize) {
        for side in [Side::Keys, Side::Values] {
            let formats = quantized_formats(side, rows.len() / BLOCK, kept);
            formats.into_iter().for_each(|format| assert_same(side, format, rows));
        }
    }

    /// Rows of few different magnitudes, down to their last bit: ties everywhere.
    fn tied_rows() -> impl Strategy<Value = Vec<f32>> {
        let value = (0u32..3, any::<bool>(), 0u32..3).prop_map(|(low, is_negative, high)| {
            f32::from_bits(u32::from(is_negative) << 31 | 0x3f80_0000 | high << 7 | low)
        });
        (1usize..=32).prop_flat_map(move |d| prop::collection::vec(value.clone(), 8 * d * BLOCK))
    }

    /// Small whole numbers: a few ties everywhere.
    fn whole_rows() -> impl Strategy<Value = Vec<f32>> {
        let value = (-99i8..99).prop_map(f32::from);
        (1usize..=32).prop_flat_map(move |d| prop::collection::vec(value.clone(), 8 * d * BLOCK))
    }

    /// Any finite value.
    fn finite_rows() -> impl Strategy<Value = Vec<f32>> {
        let value = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite());
        (1usize..=32).prop_flat_map(move |d| prop::collection::vec(value.clone(), 8 * d * BLOCK))
    }

    proptest! {
        #[test]
        fn packed_bytes_are_those_of_the_reference(
            rows in prop_oneof![any_rows(), tied_rows(), whole_rows(), finite_rows()], side in any_side(),
            (ratio, values, fill) in any_packing(),
        ) {
            if let Some(packing) = Packing::new(rows.len() / BLOCK, ratio, values, fill) {
                assert_same(side, Format::Packed(packing), &rows);
            }
        }

        #[test]
        fn quantized_bytes_are_those_of_the_reference(
            rows in prop_oneof![any_rows(), tied_rows(), whole_rows(), finite_rows()], side in any_side(),
        ) {
            let formats = quantized_formats(side, rows.len() / BLOCK, 1);
            let unpacked = |format: &Format| !matches!(format, Format::Packed(_));
            formats.into_iter().filter(unpacked).for_each(|format| assert_same(side, format, &rows));
        }
    }

    #[test]
    fn rows_of_one_magnitude() {
        for value in [0.0, -0.0, 1.0, -1.5, 1e-45, -1e-40, f32::MIN_POSITIVE, 65504.0, f32::MAX] {
            for head_dim in [8, 64, 72, 80, 96, 128, 200, 256, 264, 512] {
                let mut rows = vec![value; head_dim * BLOCK];
                rows.iter_mut().step_by(3).for_each(|value| *value = -*value);
                assert_all_same(&rows, head_dim.div_ceil(3));
            }
        }
    }

    /// Every head_dim, with all but one kept and all but one pruned.
    #[test]
    fn every_head_dim() {
        for head_dim in (8..=512).step_by(8) {
            let rows: Vec<f32> =
                (0..head_dim * BLOCK).map(|i| ((i * 7919) % 10007) as f32 / 5000.0 - 1.0).collect();
            for kept in [1, head_dim - 1] {
                assert_all_same(&rows, kept);
            }
        }
    }

    /// Not promised, but cheap to have.
    #[test]
    fn infinities_and_nans() {
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for count in [1, 5] {
                let mut rows: Vec<f32> = (0..72 * BLOCK).map(|i| (i % 89) as f32 - 44.0).collect();
                rows.chunks_mut(72).for_each(|row| row[30..30 + count].fill(value));
                assert_all_same(&rows, 16);
            }
        }
    }

    #[test]
    #[should_panic(expected = "lengths of a block")]
    fn lengths_are_checked() {
        let layout = Layout::new(Side::Keys, 64, Format::Int8).unwrap();
        quantize(&layout, &[0.0; 64 * BLOCK], &[], &mut [0; 64]);
    }
}
