//! Vectors: the few operations that kernels are made of, so that they are written once for all machines, and their
//! instances for each instruction set.
//!
//! Work is a [`Task`] that is compiled for every instance of [`Simd`]; [`dispatch()`] picks one at run time by the value
//! of an [`Isa`].

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code, reason = "vector instructions; behind safe functions")]
pub(crate) mod aarch64;
mod dispatch;
pub(crate) mod integers;
mod isa;
mod scalar;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions; behind safe functions")]
pub(crate) mod x86_64;

pub(crate) use self::dispatch::dispatch;
pub use self::isa::Isa;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::isa::Kind;
pub(crate) use self::scalar::Scalar;
use crate::format::{F16_BYTES, GROUP};

/// Work that is done with the vectors of `S`.
pub(crate) trait Task<S> {
    /// What it gives.
    type Output;

    /// Does the work; to be inlined, into functions that are compiled for the instructions.
    fn run(self, simd: S) -> Self::Output;
}

/// Lanes of a vector: as many as a group has tokens. Narrower machines use several registers.
pub(crate) const LANES: usize = GROUP;

/// Vectors of [`LANES`] f32. A value of such a type is proof that the processor has its instructions.
///
/// All methods are inlined into functions that are compiled for those instructions.
pub(crate) trait Simd: Copy {
    /// The vector.
    type F: Copy;

    /// Whether there are registers for 16 sums.
    const MANY_REGISTERS: bool = false;

    /// Whether the sums of a panel's queries over two groups take all registers, so that one group is better.
    const SUMS_OF_ONE_GROUP: bool = false;

    /// Does `task` in a function of its own, which compilers do better than one in the midst of another.
    fn outline<T: Task<Self>>(self, task: T) -> T::Output;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::F;
    /// Reads 16 values.
    fn load(self, values: &[f32; LANES]) -> Self::F;
    /// Reads 16 little-endian f32.
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::F;
    /// Reads 16 little-endian f16.
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F;
    /// Reads 16 little-endian bf16.
    fn load_bf16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F;
    /// Writes 16 values.
    fn store(self, vector: Self::F, values: &mut [f32; LANES]);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of two numbers; the second where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integer, ties to even; numbers are small.
    fn round(self, a: Self::F) -> Self::F;
    /// a * 2^n for integers n in [-126, 127]; anything for others, which broken rows may ask for.
    fn scale_by_power_of_2(self, a: Self::F, n: Self::F) -> Self::F;
    /// Lanes added up, in a fixed order.
    #[inline(always)]
    fn sum_lanes(self, a: Self::F) -> f32 {
        fold_lanes(self, a, |a, b| a + b)
    }
    /// The largest lane.
    #[inline(always)]
    fn max_lanes(self, a: Self::F) -> f32 {
        fold_lanes(self, a, f32::max)
    }
    /// Asks for the line at an address to be brought near, where that helps. Any address will do.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
}

/// Reads `N` vectors. (A loop, since closures are compiled without the instructions, and not always inlined.)
#[inline(always)]
pub(crate) fn load_all<S: Simd, E: Lanes, const N: usize>(simd: S, from: &[E; N]) -> [S::F; N] {
    let mut vectors = [simd.splat(0.0); N];
    for (vector, from) in vectors.iter_mut().zip(from) {
        *vector = from.lanes(simd);
    }
    vectors
}

/// e^x for x <= 0, to 2e-7 of it; about 1e-38 where that underflows, and NaN for a NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let t = simd.max(simd.splat(-126.0), simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let n = simd.round(t);
    let f = simd.add(t, simd.mul(n, simd.splat(-1.0)));
    // 2^f on [-1/2, 1/2]: the Taylor series, whose next term is below 2e-8.
    let mut power = simd.splat(1.540_353e-4);
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0]
    {
        power = simd.mul_add(power, f, simd.splat(coefficient));
    }
    simd.scale_by_power_of_2(power, n)
}

/// Lanes folded two by two, in a fixed order.
#[inline(always)]
fn fold_lanes<S: Simd>(simd: S, vector: S::F, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    simd.store(vector, &mut lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = fold(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// 16 stored values that become a vector.
pub(crate) trait Lanes {
    /// Reads them.
    fn lanes<S: Simd>(&self, simd: S) -> S::F;
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S) -> S::F {
        simd.load(self)
    }
}

/// f32
impl Lanes for [u8; 4 * LANES] {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S) -> S::F {
        simd.load_f32(self)
    }
}

/// f16
impl Lanes for [u8; F16_BYTES * LANES] {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S) -> S::F {
        simd.load_f16(self)
    }
}

#[cfg(test)]
mod tests;
