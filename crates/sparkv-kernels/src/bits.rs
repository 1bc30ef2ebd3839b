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

/// Writes bits one after the other, from the lowest of the first byte on, in words: there must be room for
/// one behind the last.
pub(crate) struct WordWriter<'a> {
    words: &'a mut [[u8; 8]],
    len: usize,
    word: u64,
}

impl<'a> WordWriter<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { words: bytes.as_chunks_mut().0, len: 0, word: 0 }
    }

    /// Writes the lowest `count` (up to 64) bits; the others must be unset.
    #[inline]
    pub(crate) fn push(&mut self, bits: u64, count: u32) {
        let used = self.len % 64;
        let word = self.word | bits << used;
        self.words[self.len / 64] = word.to_le_bytes();
        let rest = bits >> 1 >> (63 - used);
        // Without a branch, which would be unpredictable.
        let is_full = ((used + count as usize) as u64 >> 6).wrapping_neg();
        self.word = rest & is_full | word & !is_full;
        self.len += count as usize;
    }

    /// Writes the word that was begun.
    pub(crate) fn finish(self) {
        if let Some(last) = self.words.get_mut(self.len / 64) {
            *last = self.word.to_le_bytes();
        }
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
