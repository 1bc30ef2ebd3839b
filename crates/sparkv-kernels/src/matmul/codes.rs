//! Codes of a panel, in planes of bits.
//!
//! What a kernel takes at a time are 32 columns of 16 rows of weights: eight **quads** of columns, each a vector with four
//! codes for every row. Codes of b bits take b vectors: planes of 4, 2 or 1 bit of each code (all 8 of a byte), the lowest
//! first; in a plane, quads lie side by side in the bits of its vectors.

use super::weight_type::{COLUMNS, Shape};
use crate::simd::LANES;
use crate::simd::integers::{Integers, Quads};

/// Quads of the columns that a kernel takes at a time.
pub(crate) const QUADS: usize = COLUMNS / 4;

/// Bits of each code, from one place on.
#[derive(Clone, Copy)]
struct Plane {
    bits: usize,
    lowest: usize,
}

/// The planes of codes with this many bits.
const fn planes(bits: usize) -> &'static [Plane] {
    const LOW: Plane = Plane { bits: 4, lowest: 0 };
    match bits {
        2 => &[Plane { bits: 2, lowest: 0 }],
        3 => &[Plane { bits: 2, lowest: 0 }, Plane { bits: 1, lowest: 2 }],
        4 => &[LOW],
        5 => &[LOW, Plane { bits: 1, lowest: 4 }],
        6 => &[LOW, Plane { bits: 2, lowest: 4 }],
        _ => &[Plane { bits: 8, lowest: 0 }],
    }
}

impl Plane {
    /// The vector of the plane that a quad lies in, and the place of its lowest bit there.
    const fn place(self, quad: usize) -> (usize, usize) {
        let beside = 8 / self.bits;
        (quad / beside, quad % beside * self.bits)
    }

    const fn mask(self) -> u8 {
        (0xff_u16 >> (8 - self.bits)) as u8
    }
}

/// Writes codes to `packed`, as many vectors as codes have bits.
pub(crate) fn pack(bits: usize, quads: &[Quads; QUADS], packed: &mut [Quads]) {
    let mut start = 0;
    packed.iter_mut().for_each(|vector| *vector = [0; 4 * LANES]);
    for plane in planes(bits) {
        for (index, quad) in quads.iter().enumerate() {
            let (vector, place) = plane.place(index);
            let (mask, lowest) = (plane.mask(), plane.lowest);
            for (byte, code) in packed[start + vector].iter_mut().zip(quad) {
                *byte |= (code >> lowest & mask) << place;
            }
        }
        start += plane.bits;
    }
}

/// The code of a row of the panel in one of the 32 columns.
pub(crate) fn code(bits: usize, packed: &[Quads], lane: usize, column: usize) -> u8 {
    let (mut start, mut code) = (0, 0);
    for plane in planes(bits) {
        let (vector, place) = plane.place(column / 4);
        code |= (packed[start + vector][4 * lane + column % 4] >> place & plane.mask()) << plane.lowest;
        start += plane.bits;
    }
    code
}

/// A quad of codes.
#[inline(always)]
fn unpack_quad<S: Integers>(simd: S, bits: usize, packed: &[Quads], quad: usize) -> S::B {
    match *planes(bits) {
        [low, high] => {
            let low_bits = unpack_plane(simd, low, packed, quad);
            simd.or(low_bits, unpack_plane(simd, high, &packed[low.bits..], quad))
        }
        [plane, ..] if plane.bits < 8 => unpack_plane(simd, plane, packed, quad),
        _ => simd.load_bytes(&packed[quad]),
    }
}

/// The bits of a quad that lie in a plane, in their places.
#[inline(always)]
fn unpack_plane<S: Integers>(simd: S, plane: Plane, packed: &[Quads], quad: usize) -> S::B {
    let (vector, place) = plane.place(quad);
    let right = place as i32 - plane.lowest as i32;
    simd.bits(simd.load_bytes(&packed[vector]), right, plane.mask() << plane.lowest)
}

/// All quads. (Written out, so that every shift is known to the compiler.)
#[inline(always)]
pub(crate) fn unpack<S: Integers>(simd: S, shape: Shape, packed: &[Quads]) -> [S::B; QUADS] {
    let bits = shape.bits;
    let packed = &packed[..bits];
    [
        unpack_quad(simd, bits, packed, 0),
        unpack_quad(simd, bits, packed, 1),
        unpack_quad(simd, bits, packed, 2),
        unpack_quad(simd, bits, packed, 3),
        unpack_quad(simd, bits, packed, 4),
        unpack_quad(simd, bits, packed, 5),
        unpack_quad(simd, bits, packed, 6),
        unpack_quad(simd, bits, packed, 7),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let mut quads = [[0; 4 * LANES]; QUADS];
            let mask = (0xff_u16 >> (8 - bits)) as u8;
            for (index, byte) in quads.iter_mut().flatten().enumerate() {
                *byte = (index * 89 + index / 7) as u8 & mask;
            }
            let mut packed = vec![[7; 4 * LANES]; bits];
            pack(bits, &quads, &mut packed);
            for (lane, column) in (0..LANES).flat_map(|lane| (0..COLUMNS).map(move |column| (lane, column))) {
                assert_eq!(code(bits, &packed, lane, column), quads[column / 4][4 * lane + column % 4]);
            }
        }
    }
}
