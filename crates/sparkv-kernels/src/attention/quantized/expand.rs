//! Blocks read back into f32, laid out as dense groups are: the way of machines without an integer dot product, and of
//! formats that no kernel multiplies as they are.
//!
//! [`crate::format::block`] looks at every element in turn. Here 64 of them, a unit of [`Shape`], are read at once,
//! which become four vectors: 16 tokens in each of four channels of keys, 16 channels in each of four tokens of values.

use super::packed::{PackedCodes, Place, flip};
use super::{GROUPS, ReadQuantized, TOKEN_QUADS};
use crate::format::lanes::{QUAD, Shape, Unit};
use crate::format::packing::{KeptFormat, Packing};
use crate::format::sections::sections;
use crate::format::{BLOCK, F16_BYTES, Format, GROUP, Layout, Side, Widths, block};
use crate::simd::{LANES, Simd};

/// A number for each token of a block.
type PerToken = [[f32; LANES]; BLOCK / LANES];

/// Reads the block `bytes` of keys into `keys` (2 groups, head_dim): a channel of 16 tokens each. The same values
/// as [`crate::format::block::decode`] gives for what was quantized (but a zero may have the other sign).
#[inline(always)] // into functions that are compiled for the instructions
pub(super) fn keys<S: ReadQuantized>(simd: S, layout: &Layout, bytes: &[u8], keys: &mut [[f32; LANES]]) {
    let shape = Shape { side: Side::Keys, head_dim: layout.head_dim() };
    Expansion { simd, shape, out: keys }.read(layout, bytes);
}

/// Reads the block `bytes` of values into `values` (BLOCK, ceil(head_dim / 16)). Lanes behind a row's end may get
/// anything.
#[inline(always)]
pub(super) fn values<S: ReadQuantized>(simd: S, layout: &Layout, bytes: &[u8], values: &mut [[f32; LANES]]) {
    let shape = Shape { side: Side::Values, head_dim: layout.head_dim() };
    Expansion { simd, shape, out: values }.read(layout, bytes);
}

/// Reads the packed block `bytes` of int8 values into `codes` of whole units, as those of int8 are stored.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn packed_codes<S: ReadQuantized>(
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
                codes.iter_mut().for_each(|code| *code ^= flip(shape.side));
            }
        }
    }
}

struct Expansion<'o, S> {
    simd: S,
    shape: Shape,
    out: &'o mut [[f32; LANES]],
}

impl<S: ReadQuantized> Expansion<'_, S> {
    #[inline(always)]
    fn read(&mut self, layout: &Layout, bytes: &[u8]) {
        match layout.format() {
            Format::Int8 => self.int8(bytes),
            Format::Planes(widths) => self.planes(&widths, bytes),
            Format::Packed(packing) if packing.values == KeptFormat::Int8 => {
                self.packed_codes(&packing, bytes)
            }
            _ => by_reference(layout, bytes, self.out),
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
    fn planes(&mut self, widths: &Widths, bytes: &[u8]) {
        let (planes, scales) = bytes.split_at(bytes.len() - BLOCK * F16_BYTES);
        let scales = per_token(self.simd, scales);
        for stored in sections(self.shape.side, widths) {
            for unit in 0..stored.units() {
                let mut codes = stored.read_unit(planes, unit);
                for code in &mut codes {
                    *code = (2 * *code).wrapping_sub(stored.section.largest() as u8);
                }
                let (outer, quad) = match self.shape.side {
                    Side::Keys => (unit % GROUPS, stored.section.first / QUAD + unit / GROUPS),
                    Side::Values => (unit / TOKEN_QUADS, unit % TOKEN_QUADS),
                };
                let place = Place { unit: outer * self.quads() + quad, outer, quad };
                self.put_codes(place, &codes, &scales);
            }
        }
        if self.shape.side == Side::Values {
            return;
        }
        for outer in 0..self.outers() {
            // Channels without bits.
            for quad in widths.stored() / QUAD..self.quads() {
                let place = Place { unit: outer * self.quads() + quad, outer, quad };
                self.put(place, [self.simd.splat(0.0); QUAD]);
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

/// Reads a block element by element, where there is nothing faster.
#[inline(never)]
fn by_reference(layout: &Layout, bytes: &[u8], out: &mut [[f32; LANES]]) {
    let head_dim = layout.head_dim();
    let vectors = head_dim.div_ceil(LANES);
    block::for_each(layout, bytes, |token, channel, value| match layout.side() {
        Side::Keys => out[token / GROUP * head_dim + channel][token % GROUP] = value,
        Side::Values => out[token * vectors + channel / LANES][channel % LANES] = value,
    });
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

/// The f16 of each token.
#[inline(always)]
fn per_token<S: Simd>(simd: S, scales: &[u8]) -> PerToken {
    let mut all = [[0.0; LANES]; BLOCK / LANES];
    for (to, scales) in all.iter_mut().zip(scales.as_chunks::<{ F16_BYTES * LANES }>().0) {
        simd.store(simd.load_f16(scales), to);
    }
    all
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
