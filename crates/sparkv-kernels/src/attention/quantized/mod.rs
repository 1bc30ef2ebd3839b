//! Quantized blocks as attention reads them.
//!
//! There are two ways. Everywhere they can be read back into f32, laid out as dense groups are ([`expand`]); then they
//! are multiplied like those. Where there are products of bytes ([`crate::simd::integers`]), blocks are multiplied as integers
//! (`integers`). [`ReadQuantized`] is both, for each instruction set.

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code, reason = "vector instructions; behind safe functions")]
mod aarch64;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod codes;
mod expand;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod integers;
mod masks;
mod packed;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod planes;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod shuffles;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod weights;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions; behind safe functions")]
mod x86_64;

use self::masks::Masks;
use super::buffer::Expanded;
use super::prefetch::Prefetch;
use super::queries::QueryCodes;
use super::{ScoresAt, WeightsAt};
use crate::format::lanes::{QUAD, Unit};
use crate::format::{BLOCK, GROUP, Layout, Rows};
use crate::simd::{LANES, Scalar, Simd};

/// Groups of a block.
const GROUPS: usize = BLOCK / GROUP;

/// Quads of a block's tokens.
const TOKEN_QUADS: usize = BLOCK / QUAD;

/// What reading blocks takes beside them.
pub(super) struct Reading<'a> {
    /// Room for blocks as they are multiplied.
    pub(super) expanded: &'a mut Expanded,
    /// Asked for meanwhile.
    pub(super) prefetch: &'a mut Prefetch,
}

/// How quantized blocks are read with the vectors of an instruction set. What is not said otherwise is plain Rust.
pub(super) trait ReadQuantized: Simd {
    /// Reads a block of keys into (2 groups, head_dim).
    fn expand_keys(self, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
        expand::keys(self, layout, block, keys);
    }

    /// Reads a block of values into (BLOCK, ceil(head_dim / 16)).
    fn expand_values(self, layout: &Layout, block: &[u8], values: &mut [[f32; LANES]]) {
        expand::values(self, layout, block, values);
    }

    /// The four bytes of each lane, as numbers.
    #[inline(always)]
    fn widen_codes(self, codes: &Unit) -> [Self::F; QUAD] {
        let mut vectors = [self.splat(0.0); QUAD];
        for (term, vector) in vectors.iter_mut().enumerate() {
            let mut numbers = [0.0; LANES];
            for (number, lane) in numbers.iter_mut().zip(codes.as_chunks::<QUAD>().0) {
                *number = f32::from(lane[term].cast_signed());
            }
            *vector = self.load(&numbers);
        }
        vectors
    }

    /// Codes of a unit: `values`, one after the other, `flip` taken from them, where elements are kept; else the
    /// magnitude with its sign.
    #[inline(always)]
    fn spread_codes(self, masks: Masks, magnitudes: &Unit, values: &Unit, flip: u8, codes: &mut Unit) {
        packed::spread_codes(masks, magnitudes, values, flip, codes);
    }

    /// Scores a block of keys by integer products; `false` if that is not done here.
    fn score_codes(
        self,
        _layout: &Layout,
        _block: &[u8],
        _queries: &QueryCodes,
        _reading: Reading<'_>,
        _at: ScoresAt<'_>,
    ) -> bool {
        false
    }

    /// Adds blocks of values, [`crate::KEY_BLOCK`] rows at the most, by their weights to `sums`, by integer products;
    /// `false` if that is not done here.
    fn weigh_codes(
        self,
        _values: &Rows<'_>,
        _at: WeightsAt<'_>,
        _reading: Reading<'_>,
        _sums: &mut [[f32; LANES]],
    ) -> bool {
        false
    }
}

impl ReadQuantized for Scalar {}
