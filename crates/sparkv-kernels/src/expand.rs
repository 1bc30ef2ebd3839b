//! Quantized blocks read back into f32, laid out as dense groups are: the way of machines without an integer
//! dot product, and of f16 and f32 values. (AVX-512 has one of its own for f16 values.)
//!
//! [`crate::block`] looks at every element in turn. Here 64 of them, a unit of [`Shape`], are read at once, which
//! become four vectors: 16 tokens in each of four channels of keys, 16 channels in each of four tokens of values.

mod packed;

use self::packed::{Kept, MaskWords, PackedCodes};
use crate::block::KEY_BIAS;
use crate::lanes::{QUAD, Shape};
use crate::layout::{BLOCK, F16_BYTES, Format, GROUP, INT4_CHANNELS, Layout, MAX_HEAD_DIM, Side};
use crate::select::{KeptFormat, Packing};
use crate::simd::{LANES, Simd};

/// Codes of a unit: 16 lanes of four bytes, two's complement.
pub(crate) type Unit = [u8; QUAD * LANES];

/// Quads of a block's tokens.
const TOKEN_QUADS: usize = BLOCK / QUAD;

/// A number for each token of a block.
type PerToken = [[f32; LANES]; BLOCK / LANES];

/// Which elements are kept, and which of the others are negative, and have the higher magnitude.
#[derive(Clone, Copy)]
pub(crate) struct Masks {
    pub(crate) kept: u64,
    pub(crate) negative: u64,
    pub(crate) high: u64,
}

/// Reads the block `bytes` of keys into `keys` (2 groups, head_dim): a channel of 16 tokens each. The same values
/// as [`crate::block::decode`] gives for what was quantized (but a zero may have the other sign).
#[inline(always)] // into functions that are compiled for the instructions
pub(crate) fn keys<S: Simd>(simd: S, layout: &Layout, bytes: &[u8], keys: &mut [[f32; LANES]]) {
    let shape = Shape { side: Side::Keys, head_dim: layout.head_dim() };
    Expansion { simd, shape, out: keys }.read(layout.format(), bytes);
}

/// Reads the block `bytes` of values into `values` (BLOCK, ceil(head_dim / 16)). Lanes behind a row's end may get
/// anything.
#[inline(always)]
pub(crate) fn values<S: Simd>(simd: S, layout: &Layout, bytes: &[u8], values: &mut [[f32; LANES]]) {
    let shape = Shape { side: Side::Values, head_dim: layout.head_dim() };
    Expansion { simd, shape, out: values }.read(layout.format(), bytes);
}

/// Reads the block `bytes` of int8 values into `codes` of whole units, in two's complement.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn packed_codes<S: Simd>(
    simd: S,
    layout: &Layout,
    packing: &Packing,
    bytes: &[u8],
    codes: &mut [Unit],
) {
    let shape = Shape { side: layout.side(), head_dim: layout.head_dim() };
    let mut packed = PackedCodes::new(shape, &packing.sections(shape.head_dim), bytes);
    for outer in 0..outers(shape) {
        for quad in 0..quads(shape) {
            let unit = outer * quads(shape) + quad;
            if let Some(codes) = codes.get_mut(unit) {
                packed.next(simd, Place { unit, outer, quad }, codes);
            }
        }
    }
}

/// Where a unit lies: the group of tokens of keys and the quad of its channels, or the 16 channels of values and
/// the quad of their tokens.
#[derive(Clone, Copy)]
struct Place {
    unit: usize,
    outer: usize,
    quad: usize,
}

struct Expansion<'o, S> {
    simd: S,
    shape: Shape,
    out: &'o mut [[f32; LANES]],
}

impl<S: Simd> Expansion<'_, S> {
    #[inline(always)]
    fn read(&mut self, format: Format, bytes: &[u8]) {
        match format {
            Format::Int8 => self.int8(bytes),
            Format::Int4 => self.int4(bytes),
            Format::Packed(packing) => match packing.values {
                KeptFormat::Int8 => self.packed_codes(&packing, bytes),
                KeptFormat::F16 => self.packed_floats::<F16_BYTES>(&packing, bytes),
                KeptFormat::F32 => self.packed_floats::<4>(&packing, bytes),
            },
            Format::F32 | Format::F16 => {}
        }
    }

    #[inline(always)]
    fn quads(&self) -> usize {
        quads(self.shape)
    }

    #[inline(always)]
    fn outers(&self) -> usize {
        outers(self.shape)
    }

    #[inline(always)]
    fn int8(&mut self, bytes: &[u8]) {
        let (codes, scales) = bytes.split_at(BLOCK * self.shape.head_dim);
        let scales = per_token(self.simd, scales);
        let flip = flip(self.shape.side);
        for outer in 0..self.outers() {
            for quad in 0..self.quads() {
                let unit = outer * self.quads() + quad;
                let mut unit_codes = part(codes, unit, self.shape.whole_units());
                for code in &mut unit_codes {
                    *code ^= flip;
                }
                self.put_codes(Place { unit, outer, quad }, &unit_codes, &scales);
            }
        }
    }

    #[inline(always)]
    fn int4(&mut self, bytes: &[u8]) {
        let (nibbles, scales) = bytes.split_at(BLOCK / 2 * self.shape.head_dim);
        // (head_dim / 32, BLOCK)
        let mut by_channels = [[[0.0; LANES]; BLOCK / LANES]; MAX_HEAD_DIM / INT4_CHANNELS];
        let scales = scales.chunks_exact(F16_BYTES * BLOCK);
        for (to, scales) in by_channels.iter_mut().zip(scales) {
            *to = per_token(self.simd, scales);
        }
        // A byte holds an element of two units that follow one another.
        for outer in 0..self.outers() {
            for quad in (0..self.quads()).step_by(2) {
                let unit = outer * self.quads() + quad;
                let both = part(nibbles, unit / 2, self.shape.whole_units() / 2);
                let (mut low, mut high) = ([0; QUAD * LANES], [0; QUAD * LANES]);
                for ((low, high), byte) in low.iter_mut().zip(&mut high).zip(both) {
                    *low = (byte & 15).wrapping_sub(8);
                    *high = (byte >> 4).wrapping_sub(8);
                }
                let channel = match self.shape.side {
                    Side::Keys => quad * QUAD,
                    Side::Values => outer * LANES,
                };
                let scales = &by_channels[channel / INT4_CHANNELS];
                self.put_codes(Place { unit, outer, quad }, &low, scales);
                self.put_codes(Place { unit: unit + 1, outer, quad: quad + 1 }, &high, scales);
            }
        }
    }

    #[inline(always)]
    fn packed_codes(&mut self, packing: &Packing, bytes: &[u8]) {
        let sections = packing.sections(self.shape.head_dim);
        let scales = per_token(self.simd, &bytes[sections.scalars..sections.steps]);
        let mut packed = PackedCodes::new(self.shape, &sections, bytes);
        let mut codes = [0; QUAD * LANES];
        for outer in 0..self.outers() {
            for quad in 0..self.quads() {
                let place = Place { unit: outer * self.quads() + quad, outer, quad };
                packed.next(self.simd, place, &mut codes);
                self.put_codes(place, &codes, &scales);
            }
        }
    }

    #[inline(always)]
    fn packed_floats<const BYTES: usize>(&mut self, packing: &Packing, bytes: &[u8]) {
        let sections = packing.sections(self.shape.head_dim);
        let mut fills: [PerToken; 2] = [[[0.0; LANES]; BLOCK / LANES]; 2];
        let scalars = bytes[sections.scalars..sections.end].chunks_exact(BYTES * LANES);
        for (fills, scalars) in fills.as_flattened_mut().iter_mut().zip(scalars) {
            for (fill, bytes) in fills.iter_mut().zip(scalars.as_chunks::<BYTES>().0) {
                *fill = float(bytes);
            }
        }
        let masks = MaskWords::new(self.shape, &sections, bytes);
        let mut kept = Kept::new(bytes, sections.bitmap, 0);
        for outer in 0..self.outers() {
            for quad in 0..self.quads() {
                let unit = outer * self.quads() + quad;
                let masks = masks.get(unit);
                // Values of eight channels have half a unit.
                let width = if unit < self.shape.whole_units() { LANES } else { LANES / 2 };
                let lanes = (1 << width) - 1;
                let mut vectors = [self.simd.splat(0.0); QUAD];
                for (term, vector) in vectors.iter_mut().enumerate() {
                    let masks = [masks.kept, masks.negative, masks.high]
                        .map(|mask| (mask >> (term * width) & lanes) as u16);
                    let fills = match self.shape.side {
                        Side::Keys => [self.simd.load(&fills[0][outer]), self.simd.load(&fills[1][outer])],
                        Side::Values => {
                            let token = quad * QUAD + term;
                            [
                                self.simd.splat(fills[0].as_flattened()[token]),
                                self.simd.splat(fills[1].as_flattened()[token]),
                            ]
                        }
                    };
                    let values = kept.next(masks[0].count_ones() as usize * BYTES);
                    *vector = self.simd.spread_floats::<BYTES>(masks, fills, values);
                }
                self.put(Place { unit, outer, quad }, vectors);
            }
        }
    }

    /// Writes the codes of a unit times the scales of tokens.
    #[inline(always)]
    fn put_codes(&mut self, place: Place, codes: &Unit, scales: &PerToken) {
        let mut vectors = self.simd.widen_codes(codes);
        for (term, vector) in vectors.iter_mut().enumerate() {
            let scale = match self.shape.side {
                Side::Keys => self.simd.load(&scales[place.outer]),
                Side::Values => self.simd.splat(scales.as_flattened()[place.quad * QUAD + term]),
            };
            *vector = self.simd.mul(*vector, scale);
        }
        self.put(place, vectors);
    }

    #[inline(always)]
    fn put(&mut self, place: Place, vectors: [S::F; QUAD]) {
        match self.shape.side {
            Side::Keys => {
                for (vector, to) in vectors.into_iter().zip(&mut self.out[place.unit * QUAD..]) {
                    self.simd.store(vector, to);
                }
            }
            Side::Values => {
                let row = self.outers();
                let tokens = self.out[place.quad * QUAD * row..].chunks_exact_mut(row);
                for (vector, to) in vectors.into_iter().zip(tokens) {
                    self.simd.store(vector, &mut to[place.outer]);
                }
            }
        }
    }
}

/// Quads that lie one after the other.
#[inline(always)]
fn quads(shape: Shape) -> usize {
    match shape.side {
        Side::Keys => shape.head_dim / QUAD,
        Side::Values => TOKEN_QUADS,
    }
}

/// Groups of tokens of keys, or vectors of a row of values.
#[inline(always)]
fn outers(shape: Shape) -> usize {
    match shape.side {
        Side::Keys => BLOCK / GROUP,
        Side::Values => shape.head_dim.div_ceil(LANES),
    }
}

/// What takes the bias from codes.
#[inline(always)]
fn flip(side: Side) -> u8 {
    match side {
        Side::Keys => KEY_BIAS,
        Side::Values => 0,
    }
}

/// The f16 of each token.
#[inline(always)]
fn per_token<S: Simd>(simd: S, scales: &[u8]) -> PerToken {
    let mut all = [[0.0; LANES]; BLOCK / LANES];
    for (to, scales) in all.iter_mut().zip(scales.as_chunks::<{ F16_BYTES * LANES }>().0) {
        simd.store(simd.load_f16(scales), to);
    }
    all
}

/// An f16 or an f32.
#[inline(always)]
pub(crate) fn float<const BYTES: usize>(bytes: &[u8; BYTES]) -> f32 {
    match *bytes.as_slice() {
        [a, b] => widen(u16::from_le_bytes([a, b])),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => 0.0,
    }
}

/// The f16 of these bits. (That of the `half` crate asks the processor what it can, each time.)
#[inline(always)]
pub(crate) fn widen(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    let sign = u32::from(half & 0x8000) << 16;
    // Exponents of f32 are 112 larger: multiplying takes denormals along.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let finite = (f32::from_bits(magnitude << 13) * SCALE).to_bits();
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let infinite = if magnitude >= 0x7c00 { 0x7f80_0000 | quiet } else { 0 };
    f32::from_bits(finite | infinite | sign)
}

/// The codes of `unit`; units from `whole` on are but half as long, and filled up with zeros.
#[inline(always)]
fn part(codes: &[u8], unit: usize, whole: usize) -> Unit {
    let mut all = [0; QUAD * LANES];
    if unit < whole {
        all.copy_from_slice(&codes[unit * QUAD * LANES..][..QUAD * LANES]);
    } else {
        let start = (whole + unit) * QUAD * LANES / 2;
        all[..QUAD * LANES / 2].copy_from_slice(&codes[start..][..QUAD * LANES / 2]);
    }
    all
}

/// Eight bytes that are all ones where a bit is set.
static BYTE_MASKS: [[u8; 8]; 256] = {
    let mut masks = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            masks[byte][bit] = if byte >> bit & 1 == 1 { 255 } else { 0 };
            bit += 1;
        }
        byte += 1;
    }
    masks
};

/// [`Simd::spread_codes`] in plain Rust.
#[inline(always)]
pub(crate) fn spread_codes(
    masks: Masks,
    magnitudes: &[Unit; 2],
    (values, flip): (&Unit, u8),
    codes: &mut Unit,
) {
    let (mut negative, mut high) = ([0u8; QUAD * LANES], [0u8; QUAD * LANES]);
    for (to, byte) in negative.as_chunks_mut().0.iter_mut().zip(masks.negative.to_le_bytes()) {
        *to = BYTE_MASKS[usize::from(byte)];
    }
    for (to, byte) in high.as_chunks_mut().0.iter_mut().zip(masks.high.to_le_bytes()) {
        *to = BYTE_MASKS[usize::from(byte)];
    }
    for element in 0..codes.len() {
        let [low, higher] = [magnitudes[0][element], magnitudes[1][element]];
        let magnitude = low ^ ((low ^ higher) & high[element]);
        // Two's complement.
        codes[element] = (magnitude ^ negative[element]).wrapping_sub(negative[element]);
    }
    let mut rest = masks.kept;
    for value in values {
        if rest == 0 {
            break;
        }
        codes[rest.trailing_zeros() as usize] = value ^ flip;
        rest &= rest - 1;
    }
}

/// [`Simd::spread_floats`] in plain Rust.
#[inline(always)]
pub(crate) fn spread_floats<const BYTES: usize>(
    [kept, negative, high]: [u16; 3],
    [low, higher]: [[f32; LANES]; 2],
    values: &Unit,
) -> [f32; LANES] {
    let mut floats = [0.0; LANES];
    for (lane, float) in floats.iter_mut().enumerate() {
        let magnitude = if high >> lane & 1 == 1 { higher[lane] } else { low[lane] };
        let sign = u32::from(negative >> lane & 1) << 31;
        *float = f32::from_bits(magnitude.to_bits() ^ sign);
    }
    let mut rest = kept;
    for value in values.as_chunks::<BYTES>().0 {
        if rest == 0 {
            break;
        }
        floats[rest.trailing_zeros() as usize] = float(value);
        rest &= rest - 1;
    }
    floats
}

#[cfg(test)]
mod tests;
