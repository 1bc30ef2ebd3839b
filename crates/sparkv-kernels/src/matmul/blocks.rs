//! GGUF's blocks, taken apart: codes, scales, minima.

use half::{bf16, f16};

use super::weight_type::{SUPER, WeightType};
use crate::format::F16_BYTES;

/// A block of at most 256 weights. What a type does not have is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) codes: [u8; SUPER],
    /// Of 16 or 32 weights, as whole numbers; of types that have them.
    pub(crate) scales: [i8; SUPER / 16],
    pub(crate) minima: [i8; SUPER / 16],
    /// The bits of f16: of all, times which are scales and minima.
    pub(crate) scale: u16,
    /// What is subtracted, so its sign is that of Q4_K (and the other of Q4_1's).
    pub(crate) minimum: u16,
}

impl WeightType {
    /// The values of whole blocks as files store them; as many as there are places.
    pub fn read(self, bytes: &[u8], values: &mut [f32]) {
        let Some(shape) = self.shape() else {
            let numbers = bytes.chunks_exact(self.block_bytes());
            for (value, bytes) in values.iter_mut().zip(numbers) {
                *value = match (self, bytes) {
                    (Self::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
                    (Self::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
                    (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                    _ => 0.0,
                };
            }
            return;
        };
        let mut block = Block::ZERO;
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(values.chunks_mut(shape.block_len));
        for (bytes, values) in blocks {
            block.read(self, bytes);
            let [scale, minimum] = [block.scale, block.minimum].map(|bits| f16::from_bits(bits).to_f32());
            let group = super::weight_type::COLUMNS / shape.groups;
            let offset = shape.offset.map_or(0, |power| 1 << power);
            for (index, (values, codes)) in
                values.chunks_mut(group).zip(block.codes.chunks(group)).enumerate()
            {
                let times = |numbers: &[i8]| if shape.is_super() { f32::from(numbers[index]) } else { 1.0 };
                let (scale, minimum) = (scale * times(&block.scales), minimum * times(&block.minima));
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = scale * (i32::from(*code) - offset) as f32 - minimum;
                }
            }
        }
    }
}

/// The sign of an f16.
const SIGN: u16 = 0x8000;

impl Block {
    pub(crate) const ZERO: Self =
        Self { codes: [0; SUPER], scales: [0; SUPER / 16], minima: [0; SUPER / 16], scale: 0, minimum: 0 };

    /// Takes a block apart; `bytes` are [`WeightType::block_bytes`] of a type that is not dense.
    pub(crate) fn read(&mut self, of: WeightType, bytes: &[u8]) {
        match of {
            WeightType::F32 | WeightType::F16 | WeightType::Bf16 => {}
            WeightType::Q8_0 => {
                self.scale = half(bytes, 0);
                // Stored from 0 up.
                if let Some((codes, bytes)) =
                    self.codes.first_chunk_mut::<32>().zip(bytes[F16_BYTES..].first_chunk::<32>())
                {
                    codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte ^ 0x80);
                }
            }
            WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q5_0 | WeightType::Q5_1 => {
                self.read_32(of, bytes)
            }
            WeightType::Q2K => {
                let (scales, rest) = bytes.split_at(16);
                let (codes, halves) = rest.split_at(64);
                (self.scale, self.minimum) = (half(halves, 0), half(halves, 1));
                for (index, byte) in scales.iter().enumerate() {
                    self.scales[index] = (byte & 15).cast_signed();
                    self.minima[index] = (byte >> 4).cast_signed();
                }
                self.read_2_bits(codes);
            }
            WeightType::Q3K => {
                let (high, rest) = bytes.split_at(32);
                let (codes, rest) = rest.split_at(64);
                let (scales, scale) = rest.split_at(12);
                self.scale = half(scale, 0);
                for (index, to) in self.scales.iter_mut().enumerate() {
                    let low = if index < 8 { scales[index] & 15 } else { scales[index - 8] >> 4 };
                    let high = scales[8 + index % 4] >> (2 * (index / 4)) & 3;
                    *to = (low | high << 4).cast_signed() - 32;
                }
                self.read_2_bits(codes);
                for (part, codes) in self.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    codes.iter_mut().zip(high).for_each(|(code, high)| *code |= (high >> part & 1) << 2);
                }
            }
            WeightType::Q4K => {
                let (head, codes) = bytes.split_at(16);
                self.read_scales_of_6_bits(head);
                self.read_nibbles(codes);
            }
            WeightType::Q5K => {
                let (head, rest) = bytes.split_at(16);
                let (high, codes) = rest.split_at(32);
                self.read_scales_of_6_bits(head);
                self.read_nibbles(codes);
                for (part, codes) in self.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    codes.iter_mut().zip(high).for_each(|(code, high)| *code |= (high >> part & 1) << 4);
                }
            }
            WeightType::Q6K => {
                let (low, rest) = bytes.split_at(128);
                let (high, rest) = rest.split_at(64);
                let (scales, scale) = rest.split_at(16);
                self.scale = half(scale, 0);
                self.scales.iter_mut().zip(scales).for_each(|(to, byte)| *to = byte.cast_signed());
                for (part, codes) in self.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    // Parts of 32 weights: four of each half; nibbles of two parts beside each other.
                    let (half, part) = (part / 4, part % 4);
                    let low = &low[64 * half + 32 * (part % 2)..];
                    let shift = 4 * (part / 2);
                    for ((code, low), high) in codes.iter_mut().zip(low).zip(&high[32 * half..]) {
                        *code = low >> shift & 15 | (high >> (2 * part) & 3) << 4;
                    }
                }
            }
        }
    }

    /// The blocks of 32 weights in 4 or 5 bits.
    fn read_32(&mut self, of: WeightType, bytes: &[u8]) {
        self.scale = half(bytes, 0);
        let mut rest = &bytes[F16_BYTES..];
        if matches!(of, WeightType::Q4_1 | WeightType::Q5_1) {
            self.minimum = half(rest, 0) ^ SIGN;
            rest = &rest[F16_BYTES..];
        }
        let mut high = 0;
        if matches!(of, WeightType::Q5_0 | WeightType::Q5_1)
            && let Some((bits, codes)) = rest.split_first_chunk()
        {
            (high, rest) = (u32::from_le_bytes(*bits), codes);
        }
        let (first, second) = self.codes.split_at_mut(16);
        for (index, byte) in rest.iter().enumerate().take(16) {
            first[index] = byte & 15 | ((high >> index & 1) as u8) << 4;
            second[index] = byte >> 4 | ((high >> (index + 16) & 1) as u8) << 4;
        }
    }

    /// Four parts of 32 weights beside each other in 32 bytes.
    fn read_2_bits(&mut self, bytes: &[u8]) {
        for (part, codes) in self.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = &bytes[32 * (part / 4)..];
            codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte >> (2 * (part % 4)) & 3);
        }
    }

    /// Two parts of 32 weights beside each other in 32 bytes.
    fn read_nibbles(&mut self, bytes: &[u8]) {
        for (part, codes) in self.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = &bytes[32 * (part / 2)..];
            codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte >> (4 * (part % 2)) & 15);
        }
    }

    /// Scale and minimum of the block, and 8 of either in 6 bits; `head`: 16 bytes.
    fn read_scales_of_6_bits(&mut self, head: &[u8]) {
        (self.scale, self.minimum) = (half(head, 0), half(head, 1));
        let packed = &head[2 * F16_BYTES..];
        for index in 0..8 {
            let (scale, minimum) = if index < 4 {
                (packed[index] & 63, packed[index + 4] & 63)
            } else {
                let both = packed[index + 4];
                (both & 15 | packed[index - 4] >> 6 << 4, both >> 4 | packed[index] >> 6 << 4)
            };
            (self.scales[index], self.minima[index]) = (scale.cast_signed(), minimum.cast_signed());
        }
    }
}

/// The bits of the f16 at `index`.
fn half(bytes: &[u8], index: usize) -> u16 {
    bytes.as_chunks().0.get(index).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}
