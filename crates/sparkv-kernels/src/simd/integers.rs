//! What integer products need beside the vectors of numbers.

use super::{LANES, Simd};

/// Vectors with integers beside the numbers.
pub(crate) trait Integers: Simd {
    /// [`LANES`] of 32 bits.
    type I: Copy;

    /// `value` in every lane.
    fn splat_i32(self, value: i32) -> Self::I;
    /// a + b, wrapped.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Lanes added up, wrapped.
    fn sum_i32(self, a: Self::I) -> i32;
    /// The lowest byte of each lane, four to a number.
    fn low_bytes(self, a: Self::I) -> [i32; LANES / 4];
    /// The nearest integers; anything for what is none.
    fn to_i32(self, a: Self::F) -> Self::I;
    /// As numbers.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// Magnitudes.
    fn abs(self, a: Self::F) -> Self::F;
}
