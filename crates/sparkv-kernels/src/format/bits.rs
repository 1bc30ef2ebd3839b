//! Bits in bytes, counted from the lowest of the first byte.

/// Writes one bit after the other.
pub(crate) struct BitWriter<'a> {
    bytes: std::slice::IterMut<'a, u8>,
    byte: u8,
    len: u32,
}

impl<'a> BitWriter<'a> {
    /// A writer that begins with the first of `bytes`. What does not fit is dropped.
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes: bytes.iter_mut(), byte: 0, len: 0 }
    }

    #[inline]
    pub(crate) fn push(&mut self, bit: bool) {
        self.byte |= u8::from(bit) << self.len;
        self.len += 1;
        if self.len == 8 {
            self.write_byte();
        }
    }

    /// Writes the byte that was begun, if any, the rest of it unset.
    pub(crate) fn finish(mut self) {
        if self.len > 0 {
            self.write_byte();
        }
    }

    #[inline]
    fn write_byte(&mut self) {
        if let Some(byte) = self.bytes.next() {
            *byte = self.byte;
        }
        (self.byte, self.len) = (0, 0);
    }
}

/// The bit at `index`; unset where there is none.
#[inline]
pub(crate) fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back() {
        let mut bytes = [0xff; 3];
        let mut writer = BitWriter::new(&mut bytes);
        (0..13).for_each(|index| writer.push(index % 3 == 0));
        writer.finish();
        assert_eq!(bytes, [0b0100_1001, 0b0001_0010, 0xff]);
        assert!((0..13).all(|index| bit(&bytes, index) == (index % 3 == 0)));
        assert!(!bit(&bytes, 24));
    }

    #[test]
    fn what_does_not_fit_is_dropped() {
        let mut bytes = [0];
        let mut writer = BitWriter::new(&mut bytes);
        (0..20).for_each(|_| writer.push(true));
        writer.finish();
        assert_eq!(bytes, [0xff]);
    }
}
