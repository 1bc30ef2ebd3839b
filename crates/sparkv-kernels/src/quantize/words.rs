//! Packing 64 elements at a time in plain Rust, for processors without a kernel of their own.
//!
//! The reference looks at every element in turn. Here the bits of elements (kept, negative, high) are brought
//! into lane order in words of 64; few elements are kept, and only those are visited.

use crate::block::{code_byte, encode_scalars, to_code, to_f16};
use crate::lanes::{CHANNELS, QUAD, Shape};
use crate::layout::{BLOCK, GROUP, Layout, MAX_HEAD_DIM, Side};
use crate::select::{KeptFormat, Levels, Packing, Selection};

/// A bit for each channel, `[head_dim / 64][32 tokens]`.
type Bits = [[u64; BLOCK]; MAX_HEAD_DIM / 64];

/// As [`crate::block::encode`], of a packed block.
#[inline(always)] // into the functions that are compiled for one processor
pub(crate) fn quantize_packed(layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    let shape = Shape { side: layout.side(), head_dim: layout.head_dim() };
    let order = Order { shape, quads: packing.values == KeptFormat::Int8 };
    let sections = packing.sections(shape.head_dim);
    let none = [[0; BLOCK]; MAX_HEAD_DIM / 64];
    let (mut kept, mut negative, mut high) = (none, none, none);
    let mut scales = [0.0; BLOCK];
    for (token, row) in rows.chunks_exact(shape.head_dim).enumerate() {
        let selection = Selection::new(row, packing);
        scales[token] = encode_scalars(packing, &selection, row, token, &mut bytes[sections.scalars..]);
        set_bits(&mut kept, token, &selection.kept[..row.len()]);
        set_bits(&mut high, token, &selection.high[..row.len()]);
        for (negative, values) in negative.iter_mut().zip(row.chunks(64)) {
            // From the last to the first, which ends up lowest.
            negative[token] =
                values.iter().rev().fold(0, |bits, value| bits << 1 | u64::from(value.is_sign_negative()));
        }
    }
    let mut units = [0; BLOCK * MAX_HEAD_DIM / 64];
    let units = &mut units[..shape.units()];
    let mut written = 0;
    for (unit, bits) in units.iter_mut().enumerate() {
        *bits = order.unit(&kept, unit);
        let mut rest = *bits;
        while rest != 0 {
            let (token, channel) = order.place(unit, rest.trailing_zeros() as usize);
            let value = rows[token * shape.head_dim + channel];
            match packing.values {
                KeptFormat::F32 => bytes.as_chunks_mut().0[written] = value.to_le_bytes(),
                KeptFormat::F16 => bytes.as_chunks_mut().0[written] = to_f16(value).to_le_bytes(),
                KeptFormat::Int8 => {
                    bytes[written] = code_byte(shape.side, to_code(value, scales[token], 127.0));
                }
            }
            written += 1;
            rest &= rest - 1;
        }
    }
    let pruned = |bits: &Bits| {
        let mut pruned = [0; BLOCK * MAX_HEAD_DIM / 64];
        for (unit, (pruned, kept)) in pruned.iter_mut().zip(&*units).enumerate() {
            *pruned = order.unit(bits, unit) & !kept;
        }
        pruned
    };
    let count = units.len();
    shape.write_units(&pruned(&negative)[..count], &mut bytes[sections.signs..sections.levels]);
    if packing.levels == Levels::Two {
        shape.write_units(&pruned(&high)[..count], &mut bytes[sections.levels..sections.scalars]);
    }
    shape.write_units(units, &mut bytes[sections.bitmap..sections.signs]);
}

fn set_bits(bits: &mut Bits, token: usize, values: &[bool]) {
    for (eight, values) in values.as_chunks::<8>().0.iter().enumerate() {
        // The product brings the lowest bits of 8 bytes side by side to the top.
        let bytes = u64::from_le_bytes(values.map(u8::from));
        let byte = bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits[eight / 8][token] |= byte << (8 * (eight % 8));
    }
}

/// [`crate::lanes::lane_order`], a unit at a time.
#[derive(Clone, Copy)]
struct Order {
    shape: Shape,
    quads: bool,
}

impl Order {
    /// The first token and the first channel of a unit.
    fn start(self, unit: usize) -> (usize, usize) {
        match self.shape.side {
            Side::Keys => {
                let group = self.shape.head_dim / QUAD;
                (unit / group * GROUP, unit % group * QUAD)
            }
            Side::Values => {
                let group = BLOCK / QUAD;
                (unit % group * QUAD, unit / group * CHANNELS)
            }
        }
    }

    /// (token, channel) of an element of a unit.
    fn place(self, unit: usize, element: usize) -> (usize, usize) {
        let (token, channel) = self.start(unit);
        match (self.shape.side, self.quads) {
            (Side::Keys, true) => (token + element / QUAD, channel + element % QUAD),
            (Side::Keys, false) => (token + element % GROUP, channel + element / GROUP),
            (Side::Values, true) => (token + element % QUAD, channel + element / QUAD),
            (Side::Values, false) => {
                let channels = self.shape.channels(unit);
                (token + element / channels, channel + element % channels)
            }
        }
    }

    /// The bits of a unit.
    fn unit(self, bits: &Bits, unit: usize) -> u64 {
        let (token, channel) = self.start(unit);
        let tokens = bits[channel / 64][token..].iter().map(|word| word >> (channel % 64)).enumerate();
        match (self.shape.side, self.quads) {
            (Side::Keys, true) => {
                tokens.take(GROUP).fold(0, |unit, (token, word)| unit | (word & 15) << (QUAD * token))
            }
            (Side::Keys, false) => tokens.take(GROUP).fold(0, |unit, (token, word)| {
                // Copies 15 apart have their bits 16 apart.
                let copies = (word & 15) * (1 | 1 << 15 | 1 << 30 | 1 << 45);
                unit | (copies & 0x0001_0001_0001_0001) << token
            }),
            (Side::Values, true) => {
                tokens.take(QUAD).fold(0, |unit, (token, word)| unit | spread(word & 0xffff) << token)
            }
            (Side::Values, false) => {
                let channels = self.shape.channels(unit);
                let mask = (1 << channels) - 1;
                tokens.take(QUAD).fold(0, |unit, (token, word)| unit | (word & mask) << (channels * token))
            }
        }
    }
}

/// 16 bits, 4 apart.
fn spread(bits: u64) -> u64 {
    let bits = (bits | bits << 24) & 0x0000_00ff_0000_00ff;
    let bits = (bits | bits << 12) & 0x000f_000f_000f_000f;
    let bits = (bits | bits << 6) & 0x0303_0303_0303_0303;
    (bits | bits << 3) & 0x1111_1111_1111_1111
}
