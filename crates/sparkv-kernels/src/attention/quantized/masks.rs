//! The masks of packed blocks, a word for each 64 elements.

use crate::format::lanes::Shape;
use crate::format::packing::Sections;

/// Which elements are kept, and which of the others are negative.
#[derive(Clone, Copy)]
pub(crate) struct Masks {
    pub(super) kept: u64,
    pub(super) negative: u64,
}

/// The masks of a packed block.
pub(super) struct MaskWords<'a> {
    whole_units: usize,
    kept: &'a [u8],
    negative: &'a [u8],
}

impl<'a> MaskWords<'a> {
    #[inline(always)]
    pub(super) fn new(shape: Shape, sections: &Sections, bytes: &'a [u8]) -> Self {
        Self {
            whole_units: shape.whole_units(),
            kept: &bytes[sections.bitmap..sections.signs],
            negative: &bytes[sections.signs..sections.scalars],
        }
    }

    /// The masks of a unit.
    #[inline(always)]
    pub(super) fn get(&self, unit: usize) -> Masks {
        Masks {
            kept: word(self.kept, unit, self.whole_units),
            negative: word(self.negative, unit, self.whole_units),
        }
    }

    /// The masks of whole units, one after the other, from the `first` on.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn iter(&self, first: usize) -> impl Iterator<Item = Masks> {
        let words = |bytes: &'a [u8]| &bytes.as_chunks::<8>().0[first..];
        words(self.kept).iter().zip(words(self.negative)).map(|(kept, negative)| Masks {
            kept: u64::from_le_bytes(*kept),
            negative: u64::from_le_bytes(*negative),
        })
    }
}

/// The word of `unit`, those from `whole` on are but half as long; 0 where there is none.
#[inline(always)]
fn word(bytes: &[u8], unit: usize, whole: usize) -> u64 {
    if unit < whole {
        return bytes.as_chunks().0.get(unit).map_or(0, |word| u64::from_le_bytes(*word));
    }
    let half = bytes.as_chunks().0.get(whole + unit).map_or(0, |word| u32::from_le_bytes(*word));
    u64::from(half)
}
