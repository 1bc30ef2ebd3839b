//! The first bytes say which layouts there are and how many blocks, the others are the blocks: whatever they
//! hold, they are read with every instruction set, without a panic and without a byte read beyond them.
//!
//! From `crates/sparkv-kernels`: `cargo +nightly fuzz run blocks`

#![no_main]

use libfuzzer_sys::fuzz_target;
use sparkv_kernels::{
    BLOCK, Fill, Format, Isa, KeptFormat, KvRun, Layout, Packing, QueryTile, Rows, SET, Side,
    TileScratch, Widths, attend_tile_with, block, score_rows,
};

/// Bytes that describe the case.
const HEAD: usize = 8;

/// A quantized layout, if these bytes stand for one that can be.
fn layout(side: Side, head_dim: usize, kind: u8, kept: u8) -> Option<Layout> {
    let values = if kind & 3 == 0 { KeptFormat::F32 } else { KeptFormat::Int8 };
    let fill = if kind & 8 == 0 { Fill::RootMeanSquare } else { Fill::MeanMagnitude };
    let format = match kind >> 4 {
        0 => Format::Int8,
        1..=5 => {
            let channels = [(6, kept >> 6), (4, kept >> 4 & 3), (3, kept >> 2 & 3), (2, kept & 3)];
            let channels = channels.map(|(bits, sets)| (bits, SET * usize::from(sets)));
            Format::Planes(match (kind >> 4, side) {
                (1, Side::Keys) => Widths::allotted(&channels)?,
                (kind, _) => Widths::uniform(kind + 1, head_dim)?,
            })
        }
        _ => Format::Packed(Packing { kept: usize::from(kept), values, fill }),
    };
    Layout::new(side, head_dim, format).ok()
}

/// Blocks of exactly the bytes they need, on the heap, so that a byte read beyond them is noticed. Where `data`
/// ends, it is repeated.
fn blocks(layout: Layout, count: usize, data: &mut impl Iterator<Item = u8>) -> Box<[u8]> {
    data.take(layout.bytes(count * BLOCK)).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&[shape, count, key_kind, key_kept, value_kind, value_kept, queries, see], rest)) =
        data.split_first_chunk::<HEAD>()
    else {
        return;
    };
    if rest.is_empty() {
        return;
    }
    let head_dim = 8 * (1 + usize::from(shape % 32));
    let Some(keys) = layout(Side::Keys, head_dim, key_kind, key_kept) else { return };
    let Some(values) = layout(Side::Values, head_dim, value_kind, value_kept) else { return };
    let count = 1 + usize::from(count % 6);
    let data = &mut rest.iter().copied().cycle();
    let (key_bytes, value_bytes) = (blocks(keys, count, data), blocks(values, count, data));

    let mut decoded = vec![0.0; BLOCK * head_dim];
    block::decode(&keys, &key_bytes[..keys.unit_bytes()], &mut decoded);
    block::decode(&values, &value_bytes[..values.unit_bytes()], &mut decoded);

    let rows = count * BLOCK;
    let queries = 1 + usize::from(queries % 6);
    let query: Vec<f32> = (0..queries * head_dim).map(|i| (i % 7) as f32 - 3.0).collect();
    let keys = Rows::new(keys, &key_bytes, rows);
    let values = Rows::new(values, &value_bytes, rows);
    let mut scratch = TileScratch::default();
    let mut scores = vec![0.0; queries * rows];
    score_rows(&query, &keys, &mut scores, &mut scratch);
    let visible = vec![usize::from(see).min(rows)..rows; queries];
    let scaled_query: Vec<f32> = query.iter().map(|channel| channel / 3.0).collect();
    let offsets: Vec<f32> = (0..queries).map(|i| i as f32 - 1.0).collect();
    let tile = QueryTile {
        head_dim,
        queries: &query,
        scaled_queries: &scaled_query,
        scaled_offsets: if see & 2 == 0 { &[] } else { &offsets },
        visible: &visible,
    };
    for isa in Isa::available() {
        let runs = [KvRun { keys, values, scaled: see & 1 == 1 }];
        let attention = attend_tile_with(isa, &tile, &runs, 0..rows.next_multiple_of(128), &mut scratch);
        assert_eq!(attention.finish().len(), queries * head_dim);
    }
});
