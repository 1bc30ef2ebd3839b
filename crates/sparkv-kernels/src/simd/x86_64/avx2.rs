//! Vectors of two 256-bit registers.

use std::arch::x86_64::*;

use crate::format::F16_BYTES;
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
