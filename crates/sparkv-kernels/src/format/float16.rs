//! Numbers of 16 bits, which dense rows and scales are stored as.

use half::f16;

use super::F16_BYTES;

/// Nearest f16; what is too large becomes the largest finite one, so that a stored scale never turns a row
/// of finite values into infinities.
pub(crate) fn to_f16(value: f32) -> f16 {
    if value.is_finite() {
        f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
    } else {
        f16::from_f32(value)
    }
}

/// Stores `value` as an f16, and gives what was stored.
pub(super) fn store_f16(value: f32, bytes: &mut [u8; F16_BYTES]) -> f32 {
    let half = to_f16(value);
    *bytes = half.to_le_bytes();
    half.to_f32()
}

/// The f16 at `index`.
pub(crate) fn read_f16(bytes: &[u8], index: usize) -> f32 {
    bytes.as_chunks().0.get(index).map_or(0.0, |bytes| widen(u16::from_le_bytes(*bytes)))
}

/// The f16 of these bits. (That of the `half` crate asks the processor what it can, each time.)
#[inline(always)]
fn widen(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    let sign = u32::from(half & 0x8000) << 16;
    // Exponents of f32 are 112 larger: multiplying takes denormals along.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let finite = (f32::from_bits(magnitude << 13) * SCALE).to_bits();
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let infinite = if magnitude >= 0x7c00 { 0x7f80_0000 | quiet } else { 0 };
    f32::from_bits(finite | infinite | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened() {
        // NaNs are all the same.
        let bits = |value: f32| if value.is_nan() { u32::MAX } else { value.to_bits() };
        for half in 0..=u16::MAX {
            assert_eq!(bits(widen(half)), bits(f16::from_bits(half).to_f32()), "{half:#x}");
        }
    }
}
