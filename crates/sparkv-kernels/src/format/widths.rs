//! How many bits each channel of a row has, where it has fewer than 8.

use super::lanes::QUAD;

/// Channels that have as many bits as one another, and lie together.
pub const SET: usize = 8;

/// Bits that a channel may have, most first; or none.
const BITS: [u8; 5] = [6, 5, 4, 3, 2];

/// How many channels of a row have how many bits. Those with the most come first; those with none come last, and are
/// not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// For each of [`BITS`].
    channels: [u16; BITS.len()],
}

/// Channels that follow one another and have as many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) bits: u8,
    pub(crate) first: usize,
    pub(crate) channels: usize,
}

/// A plane: some of the bits of every code of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plane {
    /// Bits of a code that it holds: 4, 2 or 1.
    pub(crate) bits: u8,
    /// The lowest of them.
    pub(crate) lowest: u8,
}

impl Widths {
    /// `bits` for each of `head_dim` channels. `None` unless there are 2 to 6.
    pub fn uniform(bits: u8, head_dim: usize) -> Option<Self> {
        Self::allotted(&[(bits, head_dim)])
    }

    /// (bits, channels) of a row's channels; pairs of as many bits add up, and channels without bits do not count.
    /// `None` if there are other bits than none and 2 to 6, or more channels than any row has.
    pub fn allotted(channels: &[(u8, usize)]) -> Option<Self> {
        let mut widths = Self { channels: [0; BITS.len()] };
        for &(bits, count) in channels.iter().filter(|(bits, _)| *bits > 0) {
            let at = BITS.iter().position(|known| *known == bits)?;
            widths.channels[at] = widths.channels[at].checked_add(u16::try_from(count).ok()?)?;
        }
        Some(widths)
    }

    /// Channels that have bits.
    pub fn stored(&self) -> usize {
        self.channels.iter().map(|channels| usize::from(*channels)).sum()
    }

    /// Bits of the channel that is stored at `place`; 0 behind those that have any.
    pub fn bits_at(&self, place: usize) -> u8 {
        let mut sections = self.sections();
        sections.find(|section| place < section.first + section.channels).map_or(0, |section| section.bits)
    }

    /// Channels of the same bits, in order; none is empty.
    #[inline(always)]
    pub(crate) fn sections(&self) -> impl Iterator<Item = Section> + use<> {
        let mut first = 0;
        BITS.into_iter().zip(self.channels).filter_map(move |(bits, channels)| {
            let section = Section { bits, first, channels: usize::from(channels) };
            first += section.channels;
            (channels > 0).then_some(section)
        })
    }

    /// The bits of every channel's code, if all have as many.
    pub fn of_all(&self, head_dim: usize) -> Option<u8> {
        let section = self.sections().next()?;
        (section.channels == head_dim && self.stored() == head_dim).then_some(section.bits)
    }
}

impl Section {
    /// The planes of a code, the lowest bits first.
    #[inline(always)]
    pub(crate) fn planes(&self) -> &'static [Plane] {
        const FOUR: Plane = Plane { bits: 4, lowest: 0 };
        const TWO: Plane = Plane { bits: 2, lowest: 0 };
        match self.bits {
            6 => &[FOUR, Plane { bits: 2, lowest: 4 }],
            5 => &[FOUR, Plane { bits: 1, lowest: 4 }],
            4 => &[FOUR],
            3 => &[TWO, Plane { bits: 1, lowest: 2 }],
            _ => &[TWO],
        }
    }

    /// The largest magnitude of an element: elements are the odd numbers up to it.
    pub(crate) fn largest(&self) -> i32 {
        (1 << self.bits) - 1
    }

    /// Half the step by which values of unit variance are rounded best, by the mean square.
    pub(crate) fn half_step(&self) -> f32 {
        half_step(self.bits)
    }

    pub(crate) fn quads(&self) -> usize {
        self.channels / QUAD
    }
}

/// Half the step of the quantizer of 2^`bits` uniform levels, symmetric about zero, that has the least mean square
/// error for a Gaussian of unit variance (J. Max, Quantizing for minimum distortion, 1960).
///
/// 0 for other bits than 2 to 6.
pub fn half_step(bits: u8) -> f32 {
    match bits {
        6 => 0.1041 / 2.0,
        5 => 0.1881 / 2.0,
        4 => 0.3352 / 2.0,
        3 => 0.586 / 2.0,
        2 => 0.9957 / 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_one_another() {
        let widths = Widths::allotted(&[(2, 8), (0, 16), (6, 8), (4, 24), (2, 8)]).unwrap();
        let sections: Vec<_> = widths.sections().map(|s| (s.bits, s.first, s.channels)).collect();
        assert_eq!(sections, [(6, 0, 8), (4, 8, 24), (2, 32, 16)]);
        assert_eq!(widths.stored(), 48);
        let bits: Vec<u8> = (0..64).map(|place| widths.bits_at(place)).collect();
        assert_eq!(bits, [[6; 8], [4; 8], [4; 8], [4; 8], [2; 8], [2; 8], [0; 8], [0; 8]].concat());
        assert_eq!(widths.of_all(64), None);
    }

    #[test]
    fn planes_hold_every_bit_once() {
        for bits in BITS {
            let widths = Widths::uniform(bits, 64).unwrap();
            assert_eq!(widths.of_all(64), Some(bits));
            let section = widths.sections().next().unwrap();
            let mask = |plane: &Plane| ((1u8 << plane.bits) - 1) << plane.lowest;
            assert_eq!(section.planes().iter().map(mask).sum::<u8>(), (1 << bits) - 1);
        }
    }

    #[test]
    fn other_bits_are_none() {
        for bits in [1, 7, 8, 255] {
            assert_eq!(Widths::uniform(bits, 64), None);
        }
        assert_eq!(Widths::allotted(&[(4, 70_000)]), None);
    }
}
