//! What integer products need beside the vectors of numbers.

use super::{LANES, Simd};

/// Bytes of a vector: four for each lane, whose products are added up.
pub(crate) type Quads = [u8; 4 * LANES];

/// Vectors with integers beside the numbers.
///
/// Products are of a vector of bytes with four bytes that are the same for all lanes, and are added to sums in each lane:
/// those of `P` rows at once.
pub(crate) trait Integers: Simd {
    /// [`LANES`] of 32 bits.
    type I: Copy;

    /// [`Quads`].
    type B: Copy;

    /// What stored int8 keys are too large by as [`Integers::dot_keys`] takes them.
    const KEY_BIAS: i32;

    /// The power of two that this is, if it is not 0.
    const KEY_BIAS_POWER: Option<u32> =
        if Self::KEY_BIAS == 0 { None } else { Some(Self::KEY_BIAS.trailing_zeros()) };

    /// The largest number that [`Integers::dot_values`] takes for a weight.
    const LARGEST_WEIGHT: f32;

    /// `value` in every lane.
    fn splat_i32(self, value: i32) -> Self::I;
    /// a + b, wrapped.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Times two to this power, wrapped.
    fn shift_left(self, a: Self::I, power: u32) -> Self::I;
    /// Reads signed bytes as numbers.
    fn load_i8(self, bytes: &[u8; LANES]) -> Self::F;
    /// Lanes added up, wrapped.
    fn sum_i32(self, a: Self::I) -> i32;
    /// The lowest byte of each lane, four to a number.
    fn low_bytes(self, a: Self::I) -> [i32; LANES / 4];
    /// The nearest integers; anything for what is none.
    fn to_i32(self, a: Self::F) -> Self::I;
    /// As numbers.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// The largest magnitude of all lanes of both; no finite number where one of them is none.
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32;
    /// Magnitudes.
    fn abs(self, a: Self::F) -> Self::F;
    /// Reads bytes.
    fn load_bytes(self, bytes: &Quads) -> Self::B;
    /// Writes bytes.
    fn store_bytes(self, vector: Self::B, bytes: &mut Quads);
    /// The bits of each byte `right` places lower (higher where that is below 0), those of `mask`. From -7 to 7.
    fn bits(self, a: Self::B, right: i32, mask: u8) -> Self::B;
    /// a | b
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Adds products of codes, which are below 64, with signed bytes of magnitudes up to 127.
    fn dot_codes<const P: usize>(self, sums: &mut [Self::I; P], codes: Self::B, rows: &[i32; P]);
    /// Adds products of stored int8 keys with signed bytes of magnitudes up to 127, times which they are
    /// [`Integers::KEY_BIAS`] too large.
    fn dot_keys<const P: usize>(self, sums: &mut [Self::I; P], keys: Self::B, rows: &[i32; P]);
    /// Adds products of int8 values with weights up to [`Integers::LARGEST_WEIGHT`].
    fn dot_values<const P: usize>(self, sums: &mut [Self::I; P], values: Self::B, rows: &[i32; P]);
}
