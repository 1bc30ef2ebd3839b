//! Packing 64 elements at a time in plain Rust, for processors without a kernel of their own.
//!
//! The reference looks at every element in turn. Here the bits of elements (kept, negative) are brought into lane order
//! in words of 64; few elements are kept, and only those are visited.

use crate::format::lanes::{CHANNELS, QUAD, Shape};
use crate::format::packed::encode_scalars;
use crate::format::quantized::{code_byte, to_code};
use crate::format::selection::Selection;
use crate::format::{BLOCK, Format, GROUP, KeptFormat, Layout, MAX_HEAD_DIM, Packing, Side};

/// A bit for each channel, `[head_dim / 64][32 tokens]`.
type Bits = [[u64; BLOCK]; MAX_HEAD_DIM / 64];

/// As [`crate::format::block::encode`], of a packed block of int8 values; `false` if it is none.
#[inline(always)] // into the functions that are compiled for one processor
pub(super) fn quantize(layout: &Layout, rows: &[f32], bytes: &mut [u8]) -> bool {
    match layout.format() {
        Format::Packed(packing) if packing.values == KeptFormat::Int8 => {
            quantize_packed(layout, &packing, rows, bytes);
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn quantize_packed(layout: &Layout, packing: &Packing, rows: &[f32], bytes: &mut [u8]) {
    let shape = Shape { side: layout.side(), head_dim: layout.head_dim() };
    let order = Order { shape };
    let sections = packing.sections(shape.head_dim);
    let none = [[0; BLOCK]; MAX_HEAD_DIM / 64];
    let (mut kept, mut negative) = (none, none);
    let mut scales = [0.0; BLOCK];
    for (token, row) in rows.chunks_exact(shape.head_dim).enumerate() {
        let selection = Selection::new(row, packing);
        scales[token] = encode_scalars(&selection, token, &mut bytes[sections.scalars..]);
        set_bits(&mut kept, token, &selection.kept[..row.len()]);
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
            bytes[written] = code_byte(shape.side, to_code(value, scales[token]));
            written += 1;
            rest &= rest - 1;
        }
    }
    let mut pruned = [0; BLOCK * MAX_HEAD_DIM / 64];
    for (unit, (pruned, kept)) in pruned.iter_mut().zip(&*units).enumerate() {
        *pruned = order.unit(&negative, unit) & !kept;
    }
    shape.write_units(&pruned[..units.len()], &mut bytes[sections.signs..sections.scalars]);
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

/// [`crate::format::lanes::lane_order`] in quads, a unit at a time.
#[derive(Clone, Copy)]
struct Order {
    shape: Shape,
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
        match self.shape.side {
            Side::Keys => (token + element / QUAD, channel + element % QUAD),
            Side::Values => (token + element % QUAD, channel + element / QUAD),
        }
    }

    /// The bits of a unit.
    fn unit(self, bits: &Bits, unit: usize) -> u64 {
        let (token, channel) = self.start(unit);
        let tokens = bits[channel / 64][token..].iter().map(|word| word >> (channel % 64)).enumerate();
        match self.shape.side {
            Side::Keys => {
                tokens.take(GROUP).fold(0, |unit, (token, word)| unit | (word & 15) << (QUAD * token))
            }
            Side::Values => {
                tokens.take(QUAD).fold(0, |unit, (token, word)| unit | spread(word & 0xffff) << token)
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
