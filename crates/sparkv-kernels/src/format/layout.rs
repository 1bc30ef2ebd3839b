//! How keys and values of one KV head are laid out in memory.

use super::packing::Packing;
use super::sections::block_bytes;
use super::widths::{SET, Widths};
use super::{BLOCK, F16_BYTES, GROUP, MAX_HEAD_DIM, Side};

/// A layout that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// head_dim is zero, too large, or not a multiple of 8.
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
    /// Rows whose channels cannot have these bits.
    #[error("rows of {head_dim} channels cannot have these widths")]
    Widths {
        /// Channels of the row.
        head_dim: usize,
        /// Their bits.
        widths: Widths,
    },
}

/// The storage of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Every channel, 4 bytes each.
    F32,
    /// Every channel, 2 bytes each.
    F16,
    /// Every channel, 1 byte each, and one f16 scale a row: the largest magnitude is 127.
    Int8,
    /// 2 to 6 bits a channel, of keys not the same for all, and one f16 scale a row.
    Planes(Widths),
    /// The most salient channels, and for the others their signs and one magnitude.
    Packed(Packing),
}

/// A format for a given head_dim and side. See [`super::dense`] and [`super::block`] for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    side: Side,
    head_dim: usize,
    format: Format,
    /// Kept, since it is asked for with every block.
    unit_bytes: usize,
}

impl Layout {
    /// # Errors
    /// [`LayoutError`] if there is no such layout.
    pub fn new(side: Side, head_dim: usize, format: Format) -> Result<Self, LayoutError> {
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(8) {
            return Err(LayoutError::HeadDim(head_dim));
        }
        if let Format::Packed(packing) = format
            && (packing.kept == 0 || packing.kept >= head_dim)
        {
            return Err(LayoutError::Kept { head_dim, kept: packing.kept });
        }
        if let Format::Planes(widths) = format
            && !fits(side, head_dim, &widths)
        {
            return Err(LayoutError::Widths { head_dim, widths });
        }
        let unit_bytes = unit_bytes(side, head_dim, &format);
        Ok(Self { side, head_dim, format, unit_bytes })
    }

    /// Keys or values.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Channels of a row.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The storage of a row.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether rows are quantized [`BLOCK`] at a time and never written again; otherwise they are dense, and can
    /// be written one by one.
    pub fn is_quantized(&self) -> bool {
        !matches!(self.format, Format::F32 | Format::F16)
    }

    /// Rows that are laid out together: [`BLOCK`] where quantized, else [`GROUP`].
    pub fn unit_rows(&self) -> usize {
        if self.is_quantized() { BLOCK } else { GROUP }
    }

    /// Bytes of [`Layout::unit_rows`] rows; a multiple of 4.
    pub fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// Bytes that hold `rows` rows: whole units.
    pub fn bytes(&self, rows: usize) -> usize {
        rows.div_ceil(self.unit_rows()) * self.unit_bytes()
    }
}

fn unit_bytes(side: Side, head_dim: usize, format: &Format) -> usize {
    match format {
        Format::F32 => GROUP * 4 * head_dim,
        Format::F16 => GROUP * F16_BYTES * head_dim,
        Format::Int8 => BLOCK * (head_dim + F16_BYTES),
        Format::Planes(widths) => block_bytes(side, widths),
        Format::Packed(packing) => packing.sections(head_dim).end,
    }
}

/// Sections of whole sets, at least one; of values, one of all channels.
fn fits(side: Side, head_dim: usize, widths: &Widths) -> bool {
    let mut sections = widths.sections();
    match side {
        Side::Values => widths.of_all(head_dim).is_some(),
        Side::Keys => {
            (1..=head_dim).contains(&widths.stored())
                && sections.all(|section| section.channels.is_multiple_of(SET))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::packing::{Fill, KeptFormat};

    #[test]
    fn impossible_layouts_are_refused() {
        for head_dim in [0, 4, 12, 520, usize::MAX] {
            let layout = Layout::new(Side::Keys, head_dim, Format::F16);
            assert_eq!(layout, Err(LayoutError::HeadDim(head_dim)));
        }
        for kept in [0, 64, 65] {
            let packing = Packing { kept, values: KeptFormat::Int8, fill: Fill::MeanMagnitude };
            let layout = Layout::new(Side::Values, 64, Format::Packed(packing));
            assert_eq!(layout, Err(LayoutError::Kept { head_dim: 64, kept }));
        }
        let refused = [
            (Side::Keys, vec![]),
            (Side::Keys, vec![(4, 72)]),
            (Side::Keys, vec![(4, 60), (2, 4)]),
            (Side::Values, vec![(4, 56)]),
            (Side::Values, vec![(6, 32), (4, 32)]),
        ];
        for (side, channels) in refused {
            let widths = Widths::allotted(&channels).unwrap();
            let layout = Layout::new(side, 64, Format::Planes(widths));
            assert_eq!(layout, Err(LayoutError::Widths { head_dim: 64, widths }));
        }
    }

    #[test]
    fn bytes_per_token_are_those_of_the_arithmetic() {
        // head_dim, ratio, kept; b * T + D/8 + D/8 + 4 bytes a token, or 2 and 1 (c) for int8
        let table =
            [(64, 0.5, 32), (64, 0.75, 16), (64, 0.8, 13), (128, 0.5, 64), (128, 0.75, 32), (128, 0.8, 26)];
        for (head_dim, ratio, kept) in table {
            for (values, bytes, scalars) in [(KeptFormat::F32, 4, 4), (KeptFormat::Int8, 1, 3)] {
                let packing = Packing::new(head_dim, ratio, values, Fill::RootMeanSquare).unwrap();
                assert_eq!(packing.kept, kept);
                let layout = Layout::new(Side::Keys, head_dim, Format::Packed(packing)).unwrap();
                let bits = 8 * bytes * kept + 2 * head_dim + 8 * scalars;
                assert_eq!(8 * layout.unit_bytes(), BLOCK * bits, "D {head_dim}, ratio {ratio}, {values:?}");
            }
            assert_eq!(
                Packing::new(head_dim, 0.99 / head_dim as f64, KeptFormat::Int8, Fill::MeanMagnitude),
                None
            );
        }
    }

    #[test]
    fn bytes_are_those_of_whole_units() {
        let bits = |bits| Format::Planes(Widths::uniform(bits, 128).unwrap());
        let table = [
            (Format::F32, 512),
            (Format::F16, 256),
            (Format::Int8, 130),
            (bits(6), 98),
            (bits(5), 82),
            (bits(4), 66),
            (bits(3), 50),
            (bits(2), 34),
        ];
        for (format, row_bytes) in table {
            let layout = Layout::new(Side::Values, 128, format).unwrap();
            assert_eq!(layout.unit_bytes(), layout.unit_rows() * row_bytes);
            assert_eq!(layout.bytes(0), 0);
            assert_eq!(layout.bytes(33), row_bytes * if layout.is_quantized() { 64 } else { 48 });
        }
    }
}
