//! How one token's key or value vector of one KV head is stored.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::packed::PackedLayout;

/// The largest head_dim: rows are decoded into buffers of this size on the stack.
pub const MAX_HEAD_DIM: usize = 512;

/// Bytes of the f16 scale in front of an int8 row.
const SCALE_BYTES: usize = 2;

/// A layout that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// head_dim is zero, too large, or not a multiple of 8 (a row's bitmap is made of whole bytes).
    #[error("unsupported head_dim {0}: must be a multiple of 8 between 8 and {MAX_HEAD_DIM}")]
    HeadDim(usize),
    /// A packed row that keeps nothing or everything.
    #[error("a packed row of {head_dim} channels cannot keep {kept} of them")]
    Kept {
        /// Channels of the row.
        head_dim: usize,
        /// Channels to be kept.
        kept: usize,
    },
}

/// The storage of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// Every channel, 4 bytes each.
    F32,
    /// Every channel, 2 bytes each.
    F16,
    /// Every channel, 1 byte each, behind one f16 scale: the largest magnitude is 127.
    Int8,
    /// The most salient channels, and signs and one magnitude for the others.
    Packed(PackedLayout),
}

/// A row format for a given head_dim. All integers in a row are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLayout {
    head_dim: usize,
    format: RowFormat,
}

impl RowLayout {
    /// # Errors
    /// [`LayoutError`] if there is no such layout.
    pub fn new(head_dim: usize, format: RowFormat) -> Result<Self, LayoutError> {
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(8) {
            return Err(LayoutError::HeadDim(head_dim));
        }
        if let RowFormat::Packed(packed) = format
            && (packed.kept == 0 || packed.kept >= head_dim)
        {
            return Err(LayoutError::Kept { head_dim, kept: packed.kept });
        }
        Ok(Self { head_dim, format })
    }

    /// Channels of a row.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The storage of a row.
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// Bytes of a row; the same for all rows.
    pub fn row_bytes(&self) -> usize {
        match self.format {
            RowFormat::F32 => 4 * self.head_dim,
            RowFormat::F16 => 2 * self.head_dim,
            RowFormat::Int8 => SCALE_BYTES + self.head_dim,
            RowFormat::Packed(packed) => packed.row_bytes(self.head_dim),
        }
    }

    /// Stores `row` (head_dim) in `bytes` (row_bytes).
    ///
    /// # Panics
    /// If the lengths are not those.
    pub fn encode(&self, row: &[f32], bytes: &mut [u8]) {
        assert_eq!((row.len(), bytes.len()), (self.head_dim, self.row_bytes()), "lengths of a row");
        match self.format {
            RowFormat::F32 => {
                for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(row) {
                    *bytes = value.to_le_bytes();
                }
            }
            RowFormat::F16 => encode_f16(row, bytes),
            RowFormat::Int8 => {
                let (scale_bytes, values) = bytes.split_at_mut(SCALE_BYTES);
                let scale = to_f16(largest_magnitude(row) / 127.0);
                scale_bytes.copy_from_slice(&scale.to_le_bytes());
                for (byte, value) in values.iter_mut().zip(row) {
                    *byte = quantize(*value, scale.to_f32()).cast_unsigned();
                }
            }
            RowFormat::Packed(packed) => packed.encode(row, bytes),
        }
    }

    /// Reads the row in `bytes` (row_bytes) into `row` (head_dim); pruned channels are recovered.
    ///
    /// # Panics
    /// If the lengths are not those.
    pub fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        assert_eq!((row.len(), bytes.len()), (self.head_dim, self.row_bytes()), "lengths of a row");
        match self.format {
            RowFormat::F32 => {
                for (value, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            RowFormat::F16 => decode_f16(bytes, row),
            RowFormat::Int8 => {
                let (scale, values) = bytes.split_at(SCALE_BYTES);
                let scale = read_f16(scale);
                for (value, byte) in row.iter_mut().zip(values) {
                    *value = scale * f32::from(byte.cast_signed());
                }
            }
            RowFormat::Packed(packed) => packed.decode(bytes, row),
        }
    }
}

/// Nearest f16; what is too large becomes the largest finite one, so that a stored scale never turns a row
/// of finite values into infinities.
pub(crate) fn to_f16(value: f32) -> f16 {
    if value.is_finite() {
        f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
    } else {
        f16::from_f32(value)
    }
}

/// The f16 in the first two of `bytes`.
pub(crate) fn read_f16(bytes: &[u8]) -> f32 {
    bytes.first_chunk::<2>().map_or(0.0, |bytes| f16::from_le_bytes(*bytes).to_f32())
}

pub(crate) fn encode_f16(row: &[f32], bytes: &mut [u8]) {
    // In pieces of a fixed size, so that the conversion runs on whole registers.
    let mut halves = [f16::ZERO; MAX_HEAD_DIM];
    let halves = &mut halves[..row.len()];
    halves.convert_from_f32_slice(row);
    for ((bytes, half), value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(halves.iter()).zip(row) {
        let half = if half.is_infinite() { to_f16(*value) } else { *half };
        *bytes = half.to_le_bytes();
    }
}

pub(crate) fn decode_f16(bytes: &[u8], row: &mut [f32]) {
    let mut halves = [f16::ZERO; MAX_HEAD_DIM];
    let halves = &mut halves[..row.len()];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *half = f16::from_le_bytes(*bytes);
    }
    halves.convert_to_f32_slice(row);
}

/// max |x|; 0 for an empty row. A NaN is passed over.
pub(crate) fn largest_magnitude(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// `value` in steps of `scale`, rounded and saturated to ±127; 0 where the scale is 0.
pub(crate) fn quantize(value: f32, scale: f32) -> i8 {
    if scale > 0.0 { (value / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(format: RowFormat, row: &[f32]) -> Vec<f32> {
        let layout = RowLayout::new(row.len(), format).unwrap();
        let mut bytes = vec![0; layout.row_bytes()];
        let mut back = vec![0.0; row.len()];
        layout.encode(row, &mut bytes);
        layout.decode(&bytes, &mut back);
        back
    }

    /// Rows of every supported length with magnitudes from denormal to overflowing f16.
    pub(crate) fn any_row() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            4 => -4f32..4.0,
            1 => Just(0.0),
            1 => -1e-40f32..1e-40,
            1 => -1e5f32..1e5,
        ];
        (1usize..=32).prop_flat_map(move |bytes| prop::collection::vec(value.clone(), 8 * bytes))
    }

    #[test]
    fn impossible_head_dims_are_refused() {
        for head_dim in [0, 4, 12, 520, usize::MAX] {
            assert_eq!(RowLayout::new(head_dim, RowFormat::F16), Err(LayoutError::HeadDim(head_dim)));
        }
    }

    proptest! {
        #[test]
        fn f32_is_lossless(row in any_row()) {
            prop_assert_eq!(round_trip(RowFormat::F32, &row), row);
        }

        #[test]
        fn f16_is_the_nearest_f16(row in any_row()) {
            for (back, value) in round_trip(RowFormat::F16, &row).iter().zip(&row) {
                prop_assert_eq!(*back, f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32());
            }
        }

        #[test]
        fn int8_is_within_half_a_step(row in any_row()) {
            let step = to_f16(largest_magnitude(&row) / 127.0).to_f32();
            for (back, value) in round_trip(RowFormat::Int8, &row).iter().zip(&row) {
                // The f16 scale may be a little small (its relative error is 2^-11), and is 0 for rows that
                // f16 cannot express.
                prop_assert!((back - value).abs() <= 0.5 * step + value.abs() * 1e-3 + 127.0 * 6e-8);
            }
        }
    }
}
