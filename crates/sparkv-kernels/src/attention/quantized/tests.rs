use proptest::prelude::*;

use super::ReadQuantized;
use crate::format::testing::{any_packing, any_rows, any_side, quantized_formats};
use crate::format::{
    BLOCK, F16_BYTES, Format, GROUP, KeptFormat, Layout, MAX_HEAD_DIM, Packing, Side, block,
};
use crate::quantize::quantize;
use crate::simd::{Isa, LANES, Task, dispatch};

struct Expand<'a>(&'a Layout, &'a [u8], &'a mut [[f32; LANES]]);

impl<S: ReadQuantized> Task<S> for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, simd: S) {
        match self.0.side() {
            Side::Keys => simd.expand_keys(self.0, self.1, self.2),
            Side::Values => simd.expand_values(self.0, self.1, self.2),
        }
    }
}

/// The bits of a number; zeros are all the same, and so are NaNs.
fn bits(value: f32) -> u32 {
    if value.is_nan() { u32::MAX } else { (value + 0.0).to_bits() }
}

/// All of `isas` read the block as the reference does.
fn assert_same(isas: Vec<Isa>, layout: &Layout, bytes: &[u8]) {
    let head_dim = layout.head_dim();
    let vectors = head_dim.div_ceil(LANES);
    for isa in isas {
        let mut out = vec![[f32::NAN; LANES]; BLOCK * vectors];
        dispatch(isa, Expand(layout, bytes, &mut out));
        block::for_each(layout, bytes, |token, channel, value| {
            let got = match layout.side() {
                Side::Keys => out[token / GROUP * head_dim + channel][token % GROUP],
                Side::Values => out[token * vectors + channel / LANES][channel % LANES],
            };
            let place = (token, channel);
            assert_eq!(bits(got), bits(value), "{got} for {value}: {place:?} of {layout:?}, {}", isa.name());
        });
    }
}

proptest! {
    #[test]
    fn blocks_are_read_as_by_the_reference(
        rows in any_rows(), side in any_side(), (ratio, values, fill) in any_packing(),
    ) {
        let head_dim = rows.len() / BLOCK;
        let packed = Packing::new(head_dim, ratio, values, fill).map(Format::Packed);
        for format in packed.into_iter().chain(quantized_formats(side, head_dim, 1)) {
            let layout = Layout::new(side, head_dim, format).unwrap();
            let mut bytes = vec![0; layout.unit_bytes()];
            quantize(&layout, &rows, &[], &mut bytes);
            assert_same(Isa::available(), &layout, &bytes);
        }
    }

    /// Bytes that were never quantized too, but for magnitudes of more than 127 steps, which do not fit a code.
    #[test]
    fn any_bytes_are_read_as_by_the_reference(
        bytes in prop::collection::vec(any::<u8>(), 32 * 700), side in any_side(),
        head_dim in 1usize..=16, ratio in 0.0f64..1.0,
    ) {
        let head_dim = 8 * head_dim;
        let kept = ((ratio * head_dim as f64) as usize).clamp(1, head_dim - 1);
        for format in quantized_formats(side, head_dim, kept) {
            let layout = Layout::new(side, head_dim, format).unwrap();
            let mut bytes = bytes[..layout.unit_bytes()].to_vec();
            if let Format::Packed(packing) = format {
                    // Nor would a missing value under a scale that is not finite be 0.
                    let sections = packing.sections(head_dim);
                    bytes[sections.steps..].iter_mut().for_each(|steps| *steps &= 127);
                    if packing.values == KeptFormat::Int8 {
                        let scales = &mut bytes[sections.scalars..sections.steps];
                        scales.as_chunks_mut::<F16_BYTES>().0.iter_mut().for_each(|scale| scale[1] &= !0x40);
                    }
            }
            // With AVX-512, a broken bitmap makes other bytes of the block be read as values.
            let isas = Isa::available().into_iter().filter(|isa| isa.name() != "avx512").collect();
            assert_same(isas, &layout, &bytes);
        }
    }
}

#[test]
fn every_head_dim_is_read() {
    for head_dim in (8..=MAX_HEAD_DIM).step_by(8) {
        let rows: Vec<f32> =
            (0..head_dim * BLOCK).map(|i| ((i * 7919) % 10007) as f32 / 5000.0 - 1.0).collect();
        for side in [Side::Keys, Side::Values] {
            let kept = [1, head_dim / 3, head_dim - 1].into_iter();
            for format in kept.flat_map(|kept| quantized_formats(side, head_dim, kept)) {
                let layout = Layout::new(side, head_dim, format).unwrap();
                let mut bytes = vec![0; layout.unit_bytes()];
                quantize(&layout, &rows, &[], &mut bytes);
                assert_same(Isa::available(), &layout, &bytes);
            }
        }
    }
}
