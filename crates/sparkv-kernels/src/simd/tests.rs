use super::*;

/// Bits of a number; NaNs are all the same.
fn bits(value: f32) -> u32 {
    if value.is_nan() { u32::MAX } else { value.to_bits() }
}

/// What the operations give for `a` and `b`.
struct Operations<'a> {
    a: &'a [f32; LANES],
    b: &'a [f32; LANES],
}

impl<S: Simd> Task<S> for Operations<'_> {
    type Output = [[f32; LANES]; 6];

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
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

impl<S: Simd> Task<S> for Whole<'_> {
    type Output = ([[f32; LANES]; 2], f32, f32);

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
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

impl<S: Simd> Task<S> for LoadF16<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run(self, simd: S) -> Self::Output {
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
            bytes.as_chunks_mut().0.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_le_bytes());
            let got = dispatch(isa, LoadF16(&bytes)).map(bits);
            let expected = halves.map(|half| bits(half::f16::from_bits(half).to_f32()));
            assert_eq!(got, expected, "{}", isa.name());
        }
    }
}
