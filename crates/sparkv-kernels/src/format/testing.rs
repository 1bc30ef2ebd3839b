//! Rows and formats for tests.

use proptest::prelude::*;

use super::block::{decode, encode};
use super::layout::{Format, Layout};
use super::packing::{Fill, KeptFormat, Packing};
use super::widths::{SET, Widths};
use super::{BLOCK, Side};

/// Magnitudes from denormal to overflowing f16, for blocks of any supported head_dim up to 256.
pub(crate) fn any_rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        4 => -4f32..4.0,
        1 => Just(0.0),
        1 => -1e-40f32..1e-40,
        1 => -1e5f32..1e5,
    ];
    let any = (1usize..=32).prop_flat_map(move |d| prop::collection::vec(value.clone(), 8 * d * BLOCK));
    let equal = (1usize..=32, -3f32..3.0).prop_map(|(d, value)| vec![value; 8 * d * BLOCK]);
    prop_oneof![6 => any, 1 => equal]
}

/// A ratio, which prunes nothing where it is too small for the rows, and how to pack.
pub(crate) fn any_packing() -> impl Strategy<Value = (f64, KeptFormat, Fill)> {
    let values = prop_oneof![Just(KeptFormat::F32), Just(KeptFormat::Int8)];
    let fill = prop_oneof![Just(Fill::RootMeanSquare), Just(Fill::MeanMagnitude)];
    (0.02f64..1.0, values, fill)
}

pub(crate) fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Keys), Just(Side::Values)]
}

/// Every format of blocks; packed rows keep `kept` channels.
pub(crate) fn quantized_formats(side: Side, head_dim: usize, kept: usize) -> Vec<Format> {
    let mut formats = vec![Format::Int8];
    formats.extend((2..=6).filter_map(|bits| Widths::uniform(bits, head_dim)).map(Format::Planes));
    if side == Side::Keys {
        // As many sets as there are of each, from the most bits on, the last without any.
        let sets = head_dim / SET;
        let bits = (0..sets).map(|set| ([6, 5, 4, 3, 2][5 * set / sets], SET)).collect::<Vec<_>>();
        let some = bits.split_last().filter(|(_, rest)| !rest.is_empty()).map_or(&bits[..], |(_, rest)| rest);
        formats.extend([&bits[..], some].into_iter().filter_map(Widths::allotted).map(Format::Planes));
    }
    for values in [KeptFormat::F32, KeptFormat::Int8] {
        for fill in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
            formats.push(Format::Packed(Packing { kept, values, fill }));
        }
    }
    formats
}

/// A block of rows as it comes back.
pub(crate) fn round_trip(side: Side, format: Format, rows: &[f32]) -> Vec<f32> {
    let layout = Layout::new(side, rows.len() / BLOCK, format).unwrap();
    // What was in the bytes before must not matter.
    let mut bytes = vec![0xa5; layout.unit_bytes()];
    let mut back = vec![0.0; rows.len()];
    encode(&layout, rows, &[], &mut bytes);
    decode(&layout, &bytes, &mut back);
    back
}
