//! Dense rows, in f32 or f16: written one by one, in groups of [`GROUP`].
//!
//! A group of keys is channel-major, `[D][16]`: a register holds one channel of 16 tokens, so that scores
//! need no sum across lanes. A group of values is row-major, `[16][D]`.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::float16::to_f16;
use super::layout::{Format, Layout};
use super::{F16_BYTES, GROUP, MAX_HEAD_DIM, Side};

/// Stores `row` (head_dim) as row `index` of the groups in `bytes`.
///
/// # Panics
/// If the layout is quantized, or `bytes` has no such row.
pub fn write_row(layout: &Layout, row: &[f32], bytes: &mut [u8], index: usize) {
    let group = group_of(layout, bytes.len(), index);
    let bytes = &mut bytes[group];
    let (start, step) = match layout.side() {
        Side::Keys => (index % GROUP, GROUP),
        Side::Values => (index % GROUP * layout.head_dim(), 1),
    };
    if layout.format() == Format::F32 {
        let cells = bytes.as_chunks_mut::<4>().0[start..].iter_mut().step_by(step);
        cells.zip(row).for_each(|(cell, value)| *cell = value.to_le_bytes());
        return;
    }
    // All at once, so that the conversion runs on whole registers.
    let mut halves = [f16::ZERO; MAX_HEAD_DIM];
    let halves = &mut halves[..row.len()];
    halves.convert_from_f32_slice(row);
    let cells = bytes.as_chunks_mut::<F16_BYTES>().0[start..].iter_mut().step_by(step);
    for ((cell, half), value) in cells.zip(halves.iter()).zip(row) {
        let half = if half.is_infinite() { to_f16(*value) } else { *half };
        *cell = half.to_le_bytes();
    }
}

/// Reads the [`GROUP`] rows of group `index` of `bytes` into `rows` (GROUP, head_dim).
///
/// # Panics
/// If the layout is quantized, the length of `rows` is not that, or `bytes` has no such group.
pub fn read_group(layout: &Layout, bytes: &[u8], index: usize, rows: &mut [f32]) {
    let head_dim = layout.head_dim();
    assert_eq!(rows.len(), GROUP * head_dim, "rows of a group");
    let bytes = &bytes[group_of(layout, bytes.len(), index * GROUP)];
    let mut cells = [0f32; GROUP * MAX_HEAD_DIM];
    let cells = &mut cells[..rows.len()];
    if layout.format() == Format::F32 {
        let values = bytes.as_chunks::<4>().0.iter().map(|cell| f32::from_le_bytes(*cell));
        cells.iter_mut().zip(values).for_each(|(cell, value)| *cell = value);
    } else {
        let mut halves = [f16::ZERO; GROUP * MAX_HEAD_DIM];
        let halves = &mut halves[..rows.len()];
        let values = bytes.as_chunks::<F16_BYTES>().0.iter().map(|cell| f16::from_le_bytes(*cell));
        halves.iter_mut().zip(values).for_each(|(half, value)| *half = value);
        halves.convert_to_f32_slice(cells);
    }
    match layout.side() {
        Side::Values => rows.copy_from_slice(cells),
        Side::Keys => {
            for (channel, tokens) in cells.chunks_exact(GROUP).enumerate() {
                for (row, value) in rows.chunks_exact_mut(head_dim).zip(tokens) {
                    row[channel] = *value;
                }
            }
        }
    }
}

/// The bytes of the group that holds row `index`.
fn group_of(layout: &Layout, len: usize, index: usize) -> std::ops::Range<usize> {
    assert!(!layout.is_quantized(), "rows of quantized blocks are written together");
    let group = index / GROUP * layout.unit_bytes();
    assert!(group + layout.unit_bytes() <= len, "row {index} of {len} bytes");
    group..group + layout.unit_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_from_where_they_were_written(
            head_dim in (1usize..=20).prop_map(|d| 8 * d), rows in 1usize..40, seed in 0u32..1000,
        ) {
            for (side, format) in [
                (Side::Keys, Format::F32), (Side::Keys, Format::F16),
                (Side::Values, Format::F32), (Side::Values, Format::F16),
            ] {
                let layout = Layout::new(side, head_dim, format).unwrap();
                let mut bytes = vec![0; layout.bytes(rows)];
                // f16 holds these exactly.
                let row = |index: usize| -> Vec<f32> {
                    (0..head_dim).map(|c| ((index * 31 + c * 7 + seed as usize) % 2048) as f32 - 1000.0).collect()
                };
                (0..rows).rev().for_each(|index| write_row(&layout, &row(index), &mut bytes, index));
                let mut back = vec![0.0; GROUP * head_dim];
                for index in 0..rows {
                    read_group(&layout, &bytes, index / GROUP, &mut back);
                    let start = index % GROUP * head_dim;
                    prop_assert_eq!(&back[start..start + head_dim], row(index));
                }
            }
        }
    }

    #[test]
    fn what_f16_cannot_hold_is_clamped() {
        let layout = Layout::new(Side::Keys, 8, Format::F16).unwrap();
        let mut bytes = vec![0; layout.bytes(1)];
        let mut back = [0.0; GROUP * 8];
        write_row(&layout, &[1e9, -1e9, 1e-9, f32::INFINITY, 0.1, 0.0, -0.0, 1.0], &mut bytes, 0);
        read_group(&layout, &bytes, 0, &mut back);
        assert_eq!(
            back[..8],
            [65504.0, -65504.0, 0.0, f32::INFINITY, f16::from_f32(0.1).to_f32(), 0.0, -0.0, 1.0]
        );
    }
}
