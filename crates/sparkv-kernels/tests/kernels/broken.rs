//! Blocks that were never quantized: read by every instruction set without a panic.

use proptest::prelude::*;
use sparkv_kernels::{
    BLOCK, Fill, Format, Isa, KEY_BLOCK, KeptFormat, KvRun, Layout, Packing, QueryTile, Rows, SET, Side,
    TileScratch, Widths, attend_tile_with, block, score_rows,
};

const ROWS: usize = KEY_BLOCK + BLOCK;

fn formats() -> impl Strategy<Value = Format> {
    let sets = prop::collection::vec((prop::sample::select(vec![0u8, 2, 3, 4, 5, 6]), 1usize..12), 1..4);
    let planes = sets.prop_filter_map("no such bits", |sets| {
        let channels: Vec<_> = sets.into_iter().map(|(bits, sets)| (bits, sets * SET)).collect();
        Widths::allotted(&channels).map(Format::Planes)
    });
    let values = prop_oneof![Just(KeptFormat::F32), Just(KeptFormat::Int8)];
    let packed = (1usize..128, values)
        .prop_map(|(kept, values)| Format::Packed(Packing { kept, values, fill: Fill::MeanMagnitude }));
    prop_oneof![1 => Just(Format::Int8), 2 => planes, 6 => packed]
}

fn layouts() -> impl Strategy<Value = (Layout, Layout)> {
    (1usize..=16, formats(), formats()).prop_filter_map("impossible", |(eights, keys, values)| {
        let layout = |side, format| Layout::new(side, 8 * eights, format).ok();
        Some((layout(Side::Keys, keys)?, layout(Side::Values, values)?))
    })
}

/// Bytes of which few or most bits are set, or any.
fn noise(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(255), any::<u8>()];
    prop_oneof![
        prop::collection::vec(any::<u8>(), len),
        prop::collection::vec(byte, len),
        any::<u8>().prop_map(move |byte| vec![byte; len]),
    ]
}

fn cases() -> impl Strategy<Value = (Layout, Layout, Vec<u8>, Vec<u8>)> {
    layouts().prop_flat_map(|(keys, values)| {
        let bytes = (noise(keys.bytes(ROWS)), noise(values.bytes(ROWS)));
        bytes.prop_map(move |(key_bytes, value_bytes)| (keys, values, key_bytes, value_bytes))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_attended_to(
        (keys, values, key_bytes, value_bytes) in cases(), queries in 1usize..6, scaled in any::<bool>(),
    ) {
        let head_dim = keys.head_dim();
        let mut decoded = vec![0.0; BLOCK * head_dim];
        block::decode(&keys, &key_bytes[..keys.unit_bytes()], &mut decoded);
        block::decode(&values, &value_bytes[..values.unit_bytes()], &mut decoded);

        let query = vec![0.5; queries * head_dim];
        let (keys, values) = (Rows::new(keys, &key_bytes, ROWS), Rows::new(values, &value_bytes, ROWS));
        let mut scratch = TileScratch::default();
        score_rows(&query, &keys, &mut vec![0.0; queries * ROWS], &mut scratch);
        let visible = vec![3..ROWS; queries];
        let offsets = vec![0.25; queries];
        let tile = QueryTile {
            head_dim, queries: &query, scaled_queries: &query, scaled_offsets: &offsets, visible: &visible,
        };
        for isa in Isa::available() {
            let runs = [KvRun { keys, values, scaled }];
            let attention = attend_tile_with(isa, &tile, &runs, 0..2 * KEY_BLOCK, &mut scratch);
            prop_assert_eq!(attention.finish().len(), queries * head_dim);
        }
    }
}
