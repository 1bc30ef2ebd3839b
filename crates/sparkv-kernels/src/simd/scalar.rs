//! Vectors of plain Rust.

use super::integers::{Integers, Quads};
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
    fn load_bf16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F {
        std::array::from_fn(|lane| {
            let bits = u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]);
            f32::from_bits(u32::from(bits) << 16)
        })
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

/// The sums of products of four bytes in each lane, as [`Integers::dot_codes`] and its like want them.
#[inline(always)]
fn dot<const P: usize>(
    sums: &mut [[i32; LANES]; P],
    bytes: &Quads,
    rows: &[i32; P],
    product: impl Fn(u8, u8) -> i32,
) {
    for (sums, row) in sums.iter_mut().zip(rows) {
        let row = row.to_le_bytes();
        for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let products = product(bytes[0], row[0])
                + product(bytes[1], row[1])
                + product(bytes[2], row[2])
                + product(bytes[3], row[3]);
            *sum = sum.wrapping_add(products);
        }
    }
}

impl Integers for Scalar {
    type I = [i32; LANES];
    type B = Quads;

    const KEY_BIAS: i32 = 0;
    const LARGEST_WEIGHT: f32 = 255.0;

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    fn shift_left(self, a: Self::I, power: u32) -> Self::I {
        a.map(|a| a.wrapping_shl(power))
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; LANES]) -> Self::F {
        bytes.map(|byte| f32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn sum_i32(self, a: Self::I) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I) -> [i32; LANES / 4] {
        std::array::from_fn(|quad| {
            i32::from_le_bytes(std::array::from_fn(|byte| a[4 * quad + byte].to_le_bytes()[0]))
        })
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        a.map(|a| a.round_ties_even() as i32)
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32 {
        // Bits of what is not finite are larger than those of any number.
        let bits =
            |values: Self::F| values.into_iter().fold(0, |bits, value| value.abs().to_bits().max(bits));
        f32::from_bits(bits(a).max(bits(b)))
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &Quads) -> Self::B {
        *bytes
    }

    #[inline(always)]
    fn store_bytes(self, vector: Self::B, bytes: &mut Quads) {
        *bytes = vector;
    }

    #[inline(always)]
    fn bits(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        a.map(|byte| (if right < 0 { byte << -right } else { byte >> right }) & mask)
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|byte| a[byte] | b[byte])
    }

    #[inline(always)]
    fn dot_codes<const P: usize>(self, sums: &mut [Self::I; P], codes: Self::B, rows: &[i32; P]) {
        dot(sums, &codes, rows, |code, row| i32::from(code) * i32::from(row.cast_signed()));
    }

    #[inline(always)]
    fn dot_keys<const P: usize>(self, sums: &mut [Self::I; P], keys: Self::B, rows: &[i32; P]) {
        let product = |key: u8, row: u8| i32::from((key ^ 0x80).cast_signed()) * i32::from(row.cast_signed());
        dot(sums, &keys, rows, product);
    }

    #[inline(always)]
    fn dot_values<const P: usize>(self, sums: &mut [Self::I; P], values: Self::B, rows: &[i32; P]) {
        dot(sums, &values, rows, |value, row| i32::from(value.cast_signed()) * i32::from(row));
    }
}
