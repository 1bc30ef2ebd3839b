//! Vectors of plain Rust.

use super::{LANES, Simd, Task};
use crate::format::F16_BYTES;
use crate::format::float16::read_f16;

/// Vectors of plain Rust, for machines without others, and the reference.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F = [f32; LANES];

    #[inline(never)]
    fn outline<T: Task<Self>>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        *values
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::F {
        std::array::from_fn(|lane| f32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * lane + byte])))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F {
        std::array::from_fn(|lane| read_f16(bytes, lane))
    }

    #[inline(always)]
    fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
        *values = vector;
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    /// Rounded twice where the compiler may not assume instructions that round once: in software, that would be
    /// very slow.
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
        } else {
            std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
        }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane].round_ties_even())
    }

    #[inline(always)]
    fn scale_by_power_of_2(self, a: Self::F, n: Self::F) -> Self::F {
        std::array::from_fn(|lane| {
            a[lane] * f32::from_bits(((n[lane] as i32).wrapping_add(127) as u32) << 23)
        })
    }
}
