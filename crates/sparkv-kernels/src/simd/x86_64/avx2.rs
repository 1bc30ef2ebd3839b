//! Vectors of two 256-bit registers.

use std::arch::x86_64::*;

use crate::format::F16_BYTES;
use crate::simd::integers::{Integers, Quads};
use crate::simd::isa::{Isa, Kind};
use crate::simd::{LANES, Simd, Task};

/// Proof of the instructions of [`Kind::Avx2`].
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The value of `isa` is proof.
    ///
    /// # Panics
    /// If `isa` is something else.
    #[inline(always)]
    pub(crate) fn new(isa: Isa) -> Self {
        assert_eq!(isa.0, Kind::Avx2);
        Self(())
    }
}

// SAFETY of all blocks below: a value of `Avx2` is proof that the processor has the instructions, and loads
// and stores are of exactly the arrays that references point to.
impl Simd for Avx2 {
    type F = [__m256; 2];

    const SUMS_OF_ONE_GROUP: bool = true;

    #[inline(always)]
    fn outline<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn run<T: Task<Avx2>>(task: T, simd: Avx2) -> T::Output {
            task.run(simd)
        }
        // SAFETY: see above.
        unsafe { run(task, self) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        let values = values.as_ptr();
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))] }
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::F {
        let values = bytes.as_ptr().cast::<f32>();
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))] }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F {
        let halves = bytes.as_ptr().cast::<__m128i>();
        // SAFETY: see above.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1)))] }
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F {
        let halves = bytes.as_ptr().cast::<__m128i>();
        // SAFETY: see above.
        let widen = |halves| unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        // SAFETY: see above.
        [widen(halves), widen(unsafe { halves.add(1) })]
    }

    #[inline(always)]
    fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
        let values = values.as_mut_ptr();
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(values, vector[0]);
            _mm256_storeu_ps(values.add(8), vector[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see above.
        unsafe { [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])] }
    }

    #[inline(always)]
    fn scale_by_power_of_2(self, a: Self::F, n: Self::F) -> Self::F {
        // SAFETY: see above.
        let scale = |a, n| unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
        [scale(a[0], n[0]), scale(a[1], n[1])]
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        super::prefetch(address);
    }
}

/// Sums of products of bytes, in lanes of 32 bits. Two products must fit 16 bits, with a sign.
#[inline]
#[target_feature(enable = "avx2")]
fn dot(sums: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(unsigned, signed);
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

// SAFETY of all blocks below: as above.
impl Integers for Avx2 {
    type I = [__m256i; 2];
    type B = [__m256i; 2];

    const KEY_BIAS: i32 = 0;
    // Two products with int8 values fit 16 bits.
    const LARGEST_WEIGHT: f32 = 127.0;

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn shift_left(self, a: Self::I, power: u32) -> Self::I {
        // SAFETY: see above.
        unsafe {
            let power = _mm_cvtsi32_si128(power.cast_signed());
            [_mm256_sll_epi32(a[0], power), _mm256_sll_epi32(a[1], power)]
        }
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; LANES]) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let wide = [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))];
            self.to_f32(wide)
        }
    }

    #[inline(always)]
    fn sum_i32(self, a: Self::I) -> i32 {
        // SAFETY: see above.
        unsafe {
            let eights = _mm256_add_epi32(a[0], a[1]);
            let fours = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
            let twos = _mm_add_epi32(fours, _mm_unpackhi_epi64(fours, fours));
            _mm_cvtsi128_si32(_mm_add_epi32(twos, _mm_shuffle_epi32::<1>(twos)))
        }
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I) -> [i32; LANES / 4] {
        let mut quads = [0; LANES / 4];
        // SAFETY: see above.
        unsafe {
            let low = _mm256_set1_epi32(255);
            // Fours of the first register and of the second take turns.
            let words = _mm256_packus_epi32(_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low));
            let words = _mm256_permute4x64_epi64::<0b1101_1000>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(quads.as_mut_ptr().cast(), bytes);
        }
        quads
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        // SAFETY: see above.
        unsafe { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32 {
        let [a, b] = [self.abs(a), self.abs(b)];
        // Bits of what is not finite are larger than those of any number.
        // SAFETY: see above.
        unsafe {
            let bits = [a[0], a[1], b[0], b[1]].map(|part| _mm256_castps_si256(part));
            let eights =
                _mm256_max_epu32(_mm256_max_epu32(bits[0], bits[1]), _mm256_max_epu32(bits[2], bits[3]));
            let fours = _mm_max_epu32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
            let twos = _mm_max_epu32(fours, _mm_unpackhi_epi64(fours, fours));
            let one = _mm_max_epu32(twos, _mm_shuffle_epi32::<1>(twos));
            f32::from_bits(_mm_cvtsi128_si32(one).cast_unsigned())
        }
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &Quads) -> Self::B {
        let bytes = bytes.as_ptr().cast::<__m256i>();
        // SAFETY: see above.
        unsafe { [_mm256_loadu_si256(bytes), _mm256_loadu_si256(bytes.add(1))] }
    }

    #[inline(always)]
    fn store_bytes(self, vector: Self::B, bytes: &mut Quads) {
        let bytes = bytes.as_mut_ptr().cast::<__m256i>();
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_si256(bytes, vector[0]);
            _mm256_storeu_si256(bytes.add(1), vector[1]);
        }
    }

    #[inline(always)]
    fn bits(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        let mut bits = a;
        for bits in &mut bits {
            // SAFETY: see above.
            *bits = unsafe {
                let moved = if right < 0 {
                    _mm256_sll_epi16(*bits, _mm_cvtsi32_si128(-right))
                } else {
                    _mm256_srl_epi16(*bits, _mm_cvtsi32_si128(right))
                };
                _mm256_and_si256(moved, _mm256_set1_epi8(mask.cast_signed()))
            };
        }
        bits
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: see above.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn dot_codes<const P: usize>(self, sums: &mut [Self::I; P], codes: Self::B, rows: &[i32; P]) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: see above.
            unsafe {
                let row = _mm256_set1_epi32(*row);
                *sums = [dot(sums[0], codes[0], row), dot(sums[1], codes[1], row)];
            }
        }
    }

    #[inline(always)]
    fn dot_keys<const P: usize>(self, sums: &mut [Self::I; P], keys: Self::B, rows: &[i32; P]) {
        // SAFETY: see above.
        unsafe {
            // Magnitudes, and signs that go to the other side.
            let bias = _mm256_set1_epi8(-128);
            let keys = [_mm256_xor_si256(keys[0], bias), _mm256_xor_si256(keys[1], bias)];
            let magnitudes = [_mm256_abs_epi8(keys[0]), _mm256_abs_epi8(keys[1])];
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = _mm256_set1_epi32(*row);
                *sums = [
                    dot(sums[0], magnitudes[0], _mm256_sign_epi8(row, keys[0])),
                    dot(sums[1], magnitudes[1], _mm256_sign_epi8(row, keys[1])),
                ];
            }
        }
    }

    #[inline(always)]
    fn dot_values<const P: usize>(self, sums: &mut [Self::I; P], values: Self::B, rows: &[i32; P]) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: see above.
            unsafe {
                let row = _mm256_set1_epi32(*row);
                *sums = [dot(sums[0], row, values[0]), dot(sums[1], row, values[1])];
            }
        }
    }
}
