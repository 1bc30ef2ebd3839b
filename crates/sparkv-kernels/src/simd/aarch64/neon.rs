//! Vectors of four 128-bit registers.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::format::F16_BYTES;
use crate::simd::integers::{Integers, Quads};
use crate::simd::isa::{Isa, Kind};
use crate::simd::{LANES, Simd, Task};

/// A vector.
pub(crate) type Vector = [float32x4_t; 4];

/// Proof of the instructions of [`Kind::Neon`]; with `DOT`, of [`Kind::Dot`].
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// The value of `isa` is proof.
    ///
    /// # Panics
    /// If `isa` is something else.
    #[inline(always)]
    pub(crate) fn new(isa: Isa) -> Self {
        assert_eq!(isa.0, if DOT { Kind::Dot } else { Kind::Neon });
        Self(())
    }

    /// The same with dot products, if there are.
    #[inline(always)]
    pub(crate) fn with_dot(self) -> Option<Neon<true>> {
        DOT.then_some(Neon(()))
    }

    /// Eight f16 as f32. (Compilers have had a function for that only lately.)
    #[inline(always)]
    fn widen_f16(self, halves: uint16x8_t) -> [float32x4_t; 2] {
        let (low, high);
        // SAFETY: `self` is proof of the instructions, which do nothing but write these registers, and flags for
        // what is not a number.
        unsafe {
            asm!(
                "fcvtl {low:v}.4s, {halves:v}.4h",
                low = lateout(vreg) low,
                halves = in(vreg) halves,
                options(pure, nomem, nostack),
            );
            asm!(
                "fcvtl2 {high:v}.4s, {halves:v}.8h",
                high = lateout(vreg) high,
                halves = in(vreg) halves,
                options(pure, nomem, nostack),
            );
        }
        [low, high]
    }
}

impl<const DOT: bool> Neon<DOT> {
    /// Adds to `sums`, in each lane, the products of four signed bytes. (Compilers have no stable function for the
    /// instruction yet.)
    #[inline(always)]
    fn dot(self, mut sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
        if !DOT {
            // SAFETY: `self` is proof of the instructions.
            return unsafe {
                let (a, b) = (vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b));
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
                vaddq_s32(sums, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(a, b))))
            };
        }
        // SAFETY: `self` is proof of the instructions, which do nothing but write this register.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inlateout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

// SAFETY of all blocks below: a value of `Neon` is proof that the processor has the instructions, and loads
// and stores are of exactly the arrays that references point to.
impl<const DOT: bool> Simd for Neon<DOT> {
    type F = Vector;

    const SUMS_OF_ONE_GROUP: bool = true;

    #[inline(always)]
    fn outline<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "neon")]
        #[inline(never)]
        fn run<T: Task<Neon<DOT>>, const DOT: bool>(task: T, simd: Neon<DOT>) -> T::Output {
            task.run(simd)
        }
        #[target_feature(enable = "neon,dotprod")]
        #[inline(never)]
        fn run_with_dot<T: Task<Neon<DOT>>, const DOT: bool>(task: T, simd: Neon<DOT>) -> T::Output {
            task.run(simd)
        }
        // SAFETY: see above.
        unsafe { if DOT { run_with_dot(task, self) } else { run(task, self) } }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        // SAFETY: see above.
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Vector {
        let values = values.as_ptr();
        // SAFETY: see above.
        unsafe {
            [vld1q_f32(values), vld1q_f32(values.add(4)), vld1q_f32(values.add(8)), vld1q_f32(values.add(12))]
        }
    }

    /// Bytes may lie at any address, which is nothing to registers of bytes.
    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Vector {
        let bytes = bytes.as_ptr();
        // SAFETY: see above.
        unsafe {
            [
                vreinterpretq_f32_u8(vld1q_u8(bytes)),
                vreinterpretq_f32_u8(vld1q_u8(bytes.add(16))),
                vreinterpretq_f32_u8(vld1q_u8(bytes.add(32))),
                vreinterpretq_f32_u8(vld1q_u8(bytes.add(48))),
            ]
        }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> Vector {
        let bytes = bytes.as_ptr();
        // SAFETY: see above.
        let (low, high) = unsafe { (vld1q_u8(bytes), vld1q_u8(bytes.add(16))) };
        // SAFETY: see above.
        let (low, high) = unsafe { (vreinterpretq_u16_u8(low), vreinterpretq_u16_u8(high)) };
        let ([a, b], [c, d]) = (self.widen_f16(low), self.widen_f16(high));
        [a, b, c, d]
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; F16_BYTES * LANES]) -> Vector {
        let bytes = bytes.as_ptr();
        // SAFETY: see above.
        unsafe {
            let low = vreinterpretq_u16_u8(vld1q_u8(bytes));
            let high = vreinterpretq_u16_u8(vld1q_u8(bytes.add(16)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(low))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(high))),
            ]
        }
    }

    #[inline(always)]
    fn store(self, vector: Vector, values: &mut [f32; LANES]) {
        let values = values.as_mut_ptr();
        // SAFETY: see above.
        unsafe {
            vst1q_f32(values, vector[0]);
            vst1q_f32(values.add(4), vector[1]);
            vst1q_f32(values.add(8), vector[2]);
            vst1q_f32(values.add(12), vector[3]);
        }
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see above.
        unsafe {
            [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see above.
        unsafe {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        // SAFETY: see above.
        unsafe {
            [
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ]
        }
    }

    /// The instructions for it have ways of their own with NaN.
    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: see above.
        unsafe {
            [
                vbslq_f32(vcgtq_f32(a[0], b[0]), a[0], b[0]),
                vbslq_f32(vcgtq_f32(a[1], b[1]), a[1], b[1]),
                vbslq_f32(vcgtq_f32(a[2], b[2]), a[2], b[2]),
                vbslq_f32(vcgtq_f32(a[3], b[3]), a[3], b[3]),
            ]
        }
    }

    #[inline(always)]
    fn round(self, a: Vector) -> Vector {
        // SAFETY: see above.
        unsafe { [vrndnq_f32(a[0]), vrndnq_f32(a[1]), vrndnq_f32(a[2]), vrndnq_f32(a[3])] }
    }

    #[inline(always)]
    fn scale_by_power_of_2(self, a: Vector, n: Vector) -> Vector {
        let mut scaled = a;
        for (a, n) in scaled.iter_mut().zip(n) {
            // SAFETY: see above.
            *a = unsafe {
                let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                vmulq_f32(*a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
            };
        }
        scaled
    }

    /// In the order of plain Rust.
    #[inline(always)]
    fn sum_lanes(self, a: Vector) -> f32 {
        // SAFETY: see above.
        unsafe {
            let fours = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            vaddv_f32(vadd_f32(vget_low_f32(fours), vget_high_f32(fours)))
        }
    }

    #[inline(always)]
    fn max_lanes(self, a: Vector) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]))) }
    }

    /// Into the second-level cache: the first holds what is worked on. (Compilers have no function for that yet.)
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            asm!(
                "prfm pldl2keep, [{address}]",
                address = in(reg) address.addr(),
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

// SAFETY of all blocks below: as above.
impl<const DOT: bool> Integers for Neon<DOT> {
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];

    const KEY_BIAS: i32 = 0;
    // Products are of signed bytes.
    const LARGEST_WEIGHT: f32 = 127.0;

    #[inline(always)]
    fn load_bytes(self, bytes: &Quads) -> Self::B {
        let bytes = bytes.as_ptr();
        // SAFETY: see above.
        unsafe {
            [vld1q_u8(bytes), vld1q_u8(bytes.add(16)), vld1q_u8(bytes.add(32)), vld1q_u8(bytes.add(48))]
        }
    }

    #[inline(always)]
    fn store_bytes(self, vector: Self::B, bytes: &mut Quads) {
        for (part, bytes) in vector.into_iter().zip(bytes.as_chunks_mut::<16>().0) {
            // SAFETY: see above.
            unsafe { vst1q_u8(bytes.as_mut_ptr(), part) }
        }
    }

    #[inline(always)]
    fn bits(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        let mut bits = a;
        for part in &mut bits {
            // SAFETY: see above. (To the left by a number below 0 is to the right.)
            *part = unsafe { vandq_u8(vshlq_u8(*part, vdupq_n_s8(-right as i8)), vdupq_n_u8(mask)) };
        }
        bits
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: see above.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1]), vorrq_u8(a[2], b[2]), vorrq_u8(a[3], b[3])] }
    }

    #[inline(always)]
    fn dot_codes<const P: usize>(self, sums: &mut [Self::I; P], codes: Self::B, rows: &[i32; P]) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: see above.
            let row = unsafe { vreinterpretq_u8_s32(vdupq_n_s32(*row)) };
            for (sums, codes) in sums.iter_mut().zip(codes) {
                *sums = self.dot(*sums, codes, row);
            }
        }
    }

    #[inline(always)]
    fn dot_keys<const P: usize>(self, sums: &mut [Self::I; P], keys: Self::B, rows: &[i32; P]) {
        let mut keys = keys;
        for part in &mut keys {
            // SAFETY: see above.
            *part = unsafe { veorq_u8(*part, vdupq_n_u8(128)) };
        }
        self.dot_codes(sums, keys, rows);
    }

    #[inline(always)]
    fn dot_values<const P: usize>(self, sums: &mut [Self::I; P], values: Self::B, rows: &[i32; P]) {
        self.dot_codes(sums, values, rows);
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(value); 4] }
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see above.
        unsafe {
            [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1]), vaddq_s32(a[2], b[2]), vaddq_s32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn shift_left(self, a: Self::I, power: u32) -> Self::I {
        let mut shifted = a;
        for part in &mut shifted {
            // SAFETY: see above.
            *part = unsafe { vshlq_s32(*part, vdupq_n_s32(power.cast_signed())) };
        }
        shifted
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; LANES]) -> Vector {
        // SAFETY: see above.
        unsafe {
            let bytes = vreinterpretq_s8_u8(vld1q_u8(bytes.as_ptr()));
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            self.to_f32([
                vmovl_s16(vget_low_s16(low)),
                vmovl_s16(vget_high_s16(low)),
                vmovl_s16(vget_low_s16(high)),
                vmovl_s16(vget_high_s16(high)),
            ])
        }
    }

    #[inline(always)]
    fn sum_i32(self, a: Self::I) -> i32 {
        // SAFETY: see above.
        unsafe { vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3]))) }
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I) -> [i32; LANES / 4] {
        let mut quads = [0; LANES / 4];
        // SAFETY: see above.
        unsafe {
            // The even ones of two registers.
            let low = vuzp1q_s16(vreinterpretq_s16_s32(a[0]), vreinterpretq_s16_s32(a[1]));
            let high = vuzp1q_s16(vreinterpretq_s16_s32(a[2]), vreinterpretq_s16_s32(a[3]));
            let bytes = vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
            vst1q_s32(quads.as_mut_ptr(), vreinterpretq_s32_s8(bytes));
        }
        quads
    }

    #[inline(always)]
    fn to_i32(self, a: Vector) -> Self::I {
        // SAFETY: see above.
        unsafe { [vcvtnq_s32_f32(a[0]), vcvtnq_s32_f32(a[1]), vcvtnq_s32_f32(a[2]), vcvtnq_s32_f32(a[3])] }
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Vector {
        // SAFETY: see above.
        unsafe { [vcvtq_f32_s32(a[0]), vcvtq_f32_s32(a[1]), vcvtq_f32_s32(a[2]), vcvtq_f32_s32(a[3])] }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: Vector, b: Vector) -> f32 {
        let mut largest = 0;
        for part in self.abs(a).into_iter().chain(self.abs(b)) {
            // Bits of what is not finite are larger than those of any number.
            // SAFETY: see above.
            largest = largest.max(unsafe { vmaxvq_u32(vreinterpretq_u32_f32(part)) });
        }
        f32::from_bits(largest)
    }

    #[inline(always)]
    fn abs(self, a: Vector) -> Vector {
        // SAFETY: see above.
        unsafe { [vabsq_f32(a[0]), vabsq_f32(a[1]), vabsq_f32(a[2]), vabsq_f32(a[3])] }
    }
}
