//! The few vector operations that attention in f32 is made of, so that it is written once for all machines.

use crate::block::read_f16;
use crate::expand::{self, Masks, Unit};
use crate::isa::Task;
use crate::lanes::QUAD;
use crate::layout::{F16_BYTES, GROUP, Layout};
use crate::rows::{Rows, Upcoming};
use crate::score::{BlockScores, Codes, Expanded};

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
    fn outline<T: Task>(self, task: T) -> T::Output;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::F;
    /// Reads 16 values.
    fn load(self, values: &[f32; LANES]) -> Self::F;
    /// Reads 16 little-endian f32.
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::F;
    /// Reads 16 little-endian f16.
    fn load_f16(self, bytes: &[u8; F16_BYTES * LANES]) -> Self::F;
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

    /// Reads a quantized block of keys into (2 groups, head_dim).
    fn expand_keys(self, layout: &Layout, block: &[u8], keys: &mut [[f32; LANES]]) {
        expand::keys(self, layout, block, keys);
    }

    /// Reads a quantized block of values into (BLOCK, ceil(head_dim / 16)).
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

    /// Codes of a unit: `values`, one after the other, `flip` taken from them, where elements are kept; else one of
    /// two magnitudes with its sign.
    #[inline(always)]
    fn spread_codes(self, masks: Masks, magnitudes: &[Unit; 2], values: (&Unit, u8), codes: &mut Unit) {
        expand::spread_codes(masks, magnitudes, values, codes);
    }

    /// The same for 16 elements (kept, negative, high) and values of `BYTES` bytes, f16 or f32.
    #[inline(always)]
    fn spread_floats<const BYTES: usize>(
        self,
        masks: [u16; 3],
        magnitudes: [Self::F; 2],
        values: &Unit,
    ) -> Self::F {
        let mut floats = [[0.0; LANES]; 2];
        for (floats, magnitudes) in floats.iter_mut().zip(magnitudes) {
            self.store(magnitudes, floats);
        }
        self.load(&expand::spread_floats::<BYTES>(masks, floats, values))
    }

    /// Scores a quantized block of keys, from a group of the scores on, by integer products; `false` if that is
    /// not done here.
    fn score_codes(
        self,
        _layout: &Layout,
        _block: &[u8],
        _queries: &Codes,
        _work: (&mut Expanded, &mut Upcoming),
        _scores: (&mut [BlockScores], usize),
    ) -> bool {
        false
    }

    /// Adds quantized blocks of values, [`crate::KEY_BLOCK`] rows at the most, to `sums`, weighted from a group of the
    /// weights on, by integer products; `false` if that is not done here.
    fn weigh_codes(
        self,
        _values: &Rows<'_>,
        _weights: (&[BlockScores], usize),
        _work: (&mut Expanded, &mut Upcoming),
        _sums: &mut [[f32; LANES]],
    ) -> bool {
        false
    }
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

/// Vectors of plain Rust, for machines without others, and the reference.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F = [f32; LANES];

    #[inline(never)]
    fn outline<T: Task>(self, task: T) -> T::Output {
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
mod tests {
    use super::*;
    use crate::isa::{Isa, dispatch};

    /// Bits of a number; NaNs are all the same.
    fn bits(value: f32) -> u32 {
        if value.is_nan() { u32::MAX } else { value.to_bits() }
    }

    /// What the operations give for `a` and `b`.
    struct Operations<'a> {
        a: &'a [f32; LANES],
        b: &'a [f32; LANES],
    }

    impl Task for Operations<'_> {
        type Output = [[f32; LANES]; 6];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let (a, b) = (simd.load(self.a), simd.load(self.b));
            let mut bytes = [0; 4 * LANES];
            bytes.as_chunks_mut().0.iter_mut().zip(self.a).for_each(|(to, a)| *to = a.to_le_bytes());
            let mut out = [[0.0; LANES]; 6];
            let results = [
                simd.add(a, b),
                simd.mul(a, b),
                simd.max(a, b),
                simd.round(a),
                simd.load_f32(&bytes),
                simd.splat(self.a[0]),
            ];
            results.into_iter().zip(&mut out).for_each(|(result, out)| simd.store(result, out));
            out
        }
    }

    #[test]
    fn operations_are_those_of_plain_rust() {
        let ordinary = [0.5, 1.5, 2.5, -0.5, -1.5, 1e6, -3.3, 7.7];
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, -88.25];
        let values = [ordinary, odd].concat();
        let turned = |turn: usize| std::array::from_fn(|lane| values[(lane + turn) % LANES]);
        // Every value in every lane, beside every other.
        for (turn, other) in (0..LANES).flat_map(|turn| (0..LANES).map(move |other| (turn, other))) {
            let (a, b): ([f32; LANES], [f32; LANES]) = (turned(turn), turned(other));
            let expected = dispatch(Isa::SCALAR, Operations { a: &a, b: &b });
            for isa in Isa::available() {
                let got = dispatch(isa, Operations { a: &a, b: &b });
                assert_eq!(got.map(|of| of.map(bits)), expected.map(|of| of.map(bits)), "{}", isa.name());
            }
        }
    }

    /// Products that are added, powers of two, and lanes folded: exact for small whole numbers.
    struct Whole<'a>(&'a [f32; LANES]);

    impl Task for Whole<'_> {
        type Output = ([[f32; LANES]; 2], f32, f32);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let a = simd.load(self.0);
            let mut out = [[0.0; LANES]; 2];
            simd.store(simd.mul_add(a, a, simd.splat(-3.0)), &mut out[0]);
            simd.store(simd.scale_by_power_of_2(simd.splat(1.0), a), &mut out[1]);
            (out, simd.sum_lanes(a), simd.max_lanes(a))
        }
    }

    #[test]
    fn whole_numbers_are_exact() {
        let a: [f32; LANES] = std::array::from_fn(|lane| (lane * 89 % 254) as f32 - 126.0);
        let sum = a.iter().sum::<f32>();
        let max = a.iter().copied().fold(f32::MIN, f32::max);
        for isa in Isa::available() {
            let expected = [a.map(|a| a * a - 3.0), a.map(f32::exp2)];
            assert_eq!(dispatch(isa, Whole(&a)), (expected, sum, max), "{}", isa.name());
        }
    }

    struct LoadF16<'a>(&'a [u8; F16_BYTES * LANES]);

    impl Task for LoadF16<'_> {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut out = [0.0; LANES];
            simd.store(simd.load_f16(self.0), &mut out);
            out
        }
    }

    #[test]
    fn every_f16_is_loaded() {
        for isa in Isa::available() {
            for first in (0..=u16::MAX).step_by(LANES) {
                let halves: [u16; LANES] = std::array::from_fn(|lane| first + lane as u16);
                let mut bytes = [0; F16_BYTES * LANES];
                bytes
                    .as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(halves)
                    .for_each(|(to, half)| *to = half.to_le_bytes());
                let got = dispatch(isa, LoadF16(&bytes)).map(bits);
                let expected = halves.map(|half| bits(half::f16::from_bits(half).to_f32()));
                assert_eq!(got, expected, "{}", isa.name());
            }
        }
    }
}
