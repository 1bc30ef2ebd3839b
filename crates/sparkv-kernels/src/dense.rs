//! Dense rows, in f32 or f16: written one by one, in groups of [`GROUP`].
//!
//! A group of keys is channel-major, `[D][16]`: a register holds one channel of 16 tokens, so that scores
//! need no sum across lanes. A group of values is row-major, `[16][D]`.

use half::f16;

use crate::block::to_f16;
use crate::layout::{F16_BYTES, Format, GROUP, Layout, Side};

/// Stores `row` (head_dim) as row `index` of the groups in `bytes`.
///
/// # Panics
/// If the layout is sealed, or `bytes` has no such row.
pub fn write_row(layout: &Layout, row: &[f32], bytes: &mut [u8], index: usize) {
    let group = group_of(layout, bytes.len(), index);
    let bytes = &mut bytes[group];
    let (start, step) = place(layout, index);
    match layout.format() {
        Format::F32 => {
            let cells = bytes.as_chunks_mut::<4>().0[start..].iter_mut().step_by(step);
            cells.zip(row).for_each(|(cell, value)| *cell = value.to_le_bytes());
        }
        _ => {
            let cells = bytes.as_chunks_mut::<F16_BYTES>().0[start..].iter_mut().step_by(step);
            cells.zip(row).for_each(|(cell, value)| *cell = to_f16(*value).to_le_bytes());
        }
    }
}

/// Reads row `index` of the groups in `bytes` into `row` (head_dim).
///
/// # Panics
/// If the layout is sealed, or `bytes` has no such row.
pub fn read_row(layout: &Layout, bytes: &[u8], index: usize, row: &mut [f32]) {
    let bytes = &bytes[group_of(layout, bytes.len(), index)];
    let (start, step) = place(layout, index);
    match layout.format() {
        Format::F32 => {
            let cells = bytes.as_chunks::<4>().0[start..].iter().step_by(step);
            row.iter_mut().zip(cells).for_each(|(value, cell)| *value = f32::from_le_bytes(*cell));
        }
        _ => {
            let cells = bytes.as_chunks::<F16_BYTES>().0[start..].iter().step_by(step);
            row.iter_mut().zip(cells).for_each(|(value, cell)| *value = f16::from_le_bytes(*cell).to_f32());
        }
    }
}

/// The bytes of the group that holds row `index`.
fn group_of(layout: &Layout, len: usize, index: usize) -> std::ops::Range<usize> {
    assert!(!layout.is_sealed(), "rows of sealed blocks are written together");
    let group = index / GROUP * layout.unit_bytes();
    assert!(group + layout.unit_bytes() <= len, "row {index} of {len} bytes");
    group..group + layout.unit_bytes()
}

/// Where row `index` begins in its group, and how far its channels are apart, in elements.
fn place(layout: &Layout, index: usize) -> (usize, usize) {
    match layout.side() {
        Side::Keys => (index % GROUP, GROUP),
        Side::Values => (index % GROUP * layout.head_dim(), 1),
    }
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
                let mut back = vec![0.0; head_dim];
                for index in 0..rows {
                    read_row(&layout, &bytes, index, &mut back);
                    prop_assert_eq!(&back, &row(index));
                }
            }
        }
    }

    #[test]
    fn what_f16_cannot_hold_is_clamped() {
        let layout = Layout::new(Side::Keys, 8, Format::F16).unwrap();
        let mut bytes = vec![0; layout.bytes(1)];
        let mut back = [0.0; 8];
        write_row(&layout, &[1e9, -1e9, 1e-9, f32::INFINITY, 0.1, 0.0, -0.0, 1.0], &mut bytes, 0);
        read_row(&layout, &bytes, 0, &mut back);
        assert_eq!(
            back,
            [65504.0, -65504.0, 0.0, f32::INFINITY, f16::from_f32(0.1).to_f32(), 0.0, -0.0, 1.0]
        );
    }
}
