//! The activation of the feed-forward block.

/// Replaces `gate` by silu(gate) * up; both of one length.
pub fn silu_times(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(x, y)| *x = silu(*x) * y);
}

/// x / (1 + e^-x)
#[inline]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// e^x within 2e-7 of itself; beyond f32's normal numbers, the largest or smallest of them. Unlike the
/// standard library's, several of these are computed at once.
#[inline]
fn exp(x: f32) -> f32 {
    /// Added to a small number, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2, its upper bits and the rest, so that their multiples lose nothing.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.3, 88.3);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = rounded - ROUND;
    let r = x - exponent * LN_2[0] - exponent * LN_2[1];
    let series = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    let polynomial = series.into_iter().fold(0.0, |sum, term| sum * r + term) * r * r + r + 1.0;
    polynomial * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_bits() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            let off = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(off < 2e-7, "e^{x}: {off}");
        }
    }

    #[test]
    fn silu_of_extremes() {
        assert_eq!(silu(1e30), 1e30);
        assert!(silu(-1e30).abs() < 1e-6 && silu(f32::MIN_POSITIVE) == f32::MIN_POSITIVE / 2.0);
        assert!(silu(f32::NAN).is_nan());
        assert_eq!(silu(f32::INFINITY), f32::INFINITY);
    }
}
