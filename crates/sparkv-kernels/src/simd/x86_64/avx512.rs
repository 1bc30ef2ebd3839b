//! Vectors of one 512-bit register.

use std::arch::x86_64::*;

use crate::format::F16_BYTES;
use crate::simd::integers::{Integers, Quads};
use crate::simd::isa::{Isa, Kind};
use crate::simd::{LANES, Simd, Task};

/// Proof of the instructions of [`Kind::Avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The value of `isa` is proof.
    ///
    /// # Panics
    /// If `isa` is something else.
    #[inline(always)]
    pub(crate) fn new(isa: Isa) -> Self {
        assert_eq!(isa.0, Kind::Avx512);
        Self(())
    }

    /// Every byte four times.
    #[inline(always)]
    pub(crate) fn each_four_times(self, bytes: &[u8; LANES]) -> __m512i {
        // SAFETY: `self` is proof of the instructions; the array is as long as what is read.
        unsafe {
            let lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            _mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x0101_0101))
        }
    }

    /// a - b in bytes where the mask is set, else a + b.
    #[inline(always)]
    pub(crate) fn plus_minus(self, a: __m512i, minus: u64, b: __m512i) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_mask_sub_epi8(_mm512_add_epi8(a, b), minus, a, b) }
    }

    /// The first bytes of `values`, one after the other, where the mask is set; else bytes of `others`.
    #[inline(always)]
    pub(crate) fn expand_bytes(self, others: __m512i, mask: u64, values: __m512i) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_mask_expand_epi8(others, mask, values) }
    }

    /// sums + unsigned . signed, over the four bytes of each lane.
    #[inline(always)]
    pub(crate) fn dot(self, sums: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_dpbusd_epi32(sums, unsigned, signed) }
    }
}

impl Integers for Avx512 {
    type I = __m512i;
    type B = __m512i;

    const KEY_BIAS: i32 = 128;
    const LARGEST_WEIGHT: f32 = 255.0;

    #[inline(always)]
    fn load_bytes(self, bytes: &Quads) -> __m512i {
        // SAFETY: `self` is proof of the instructions; the array is as long as a register.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_bytes(self, register: __m512i, bytes: &mut Quads) {
        // SAFETY: `self` is proof of the instructions; the array is as long as a register.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), register) }
    }

    #[inline(always)]
    fn bits(self, a: __m512i, right: i32, mask: u8) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe {
            let moved = if right < 0 {
                _mm512_sll_epi16(a, _mm_cvtsi32_si128(-right))
            } else {
                _mm512_srl_epi16(a, _mm_cvtsi32_si128(right))
            };
            _mm512_and_si512(moved, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn dot_codes<const P: usize>(self, sums: &mut [__m512i; P], codes: __m512i, rows: &[i32; P]) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            *sums = self.dot(*sums, codes, self.splat_i32(*row));
        }
    }

    #[inline(always)]
    fn dot_keys<const P: usize>(self, sums: &mut [__m512i; P], keys: __m512i, rows: &[i32; P]) {
        self.dot_codes(sums, keys, rows);
    }

    #[inline(always)]
    fn dot_values<const P: usize>(self, sums: &mut [__m512i; P], values: __m512i, rows: &[i32; P]) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            *sums = self.dot(*sums, self.splat_i32(*row), values);
        }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn shift_left(self, a: __m512i, power: u32) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(power.cast_signed())) }
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; LANES]) -> __m512 {
        // SAFETY: `self` is proof of the instructions; the array is as long as what is read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn sum_i32(self, a: __m512i) -> i32 {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_reduce_add_epi32(a) }
    }

    #[inline(always)]
    fn low_bytes(self, a: __m512i) -> [i32; LANES / 4] {
        let mut quads = [0; LANES / 4];
        // SAFETY: `self` is proof of the instructions; the array is as long as what is stored.
        unsafe { _mm_storeu_si128(quads.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)) };
        quads
    }

    #[inline(always)]
    fn to_i32(self, a: __m512) -> __m512i {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_cvtps_epi32(a) }
    }

    #[inline(always)]
    fn to_f32(self, integers: __m512i) -> __m512 {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_cvtepi32_ps(integers) }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: __m512, b: __m512) -> f32 {
        // Bits of what is not finite are larger than those of any number.
        // SAFETY: `self` is proof of the instructions.
        unsafe {
            let bits = _mm512_max_epu32(
                _mm512_castps_si512(_mm512_abs_ps(a)),
                _mm512_castps_si512(_mm512_abs_ps(b)),
            );
            f32::from_bits(_mm512_reduce_max_epu32(bits))
        }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: `self` is proof of the instructions.
        unsafe { _mm512_abs_ps(a) }
    }
}

// SAFETY of all blocks below: a value of `Avx512` is proof that the processor has the instructions, and
// loads and stores are of exactly the arrays that references point to.
impl Simd for Avx512 {
    type F = __m512;

    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn outline<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(
            enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni"
        )]
        #[inline(never)]
        fn run<T: Task<Avx512>>(task: T, simd: Avx512) -> T::Output {
            task.run(simd)
        }
        // SAFETY: see above.
        unsafe { run(task, self) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; F16_BYTES * LANES]) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }

    #[inline(always)]
    fn store(self, vector: __m512, values: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(a) }
    }

    #[inline(always)]
    fn scale_by_power_of_2(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    fn sum_lanes(self, a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn max_lanes(self, a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        super::prefetch(address);
    }
}
