//! Where the tables of quantized rows' domains lie in a device's memory.
//!
//! A layer's quantized rows may be in a domain of their own: what was done to them is settled once, and known from tables for each
//! KV head. These lie in the pool, one head after the other, and each head's in this order, as far as its domain has them:
//!
//! ```text
//! mean of keys, f32 | factors of keys, f32 | weights of keys, f32 | mean of values, f32 | places, u16 |
//! ```
//!
//! all of head_dim numbers. Factors are what keys are multiplied by and queries divided by; where bits are allotted, half a step
//! of the channel at each place. Weights are what an error costs there, and a place is its channel, and its bits times 2^12.

/// What is done to keys before they are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDomain {
    /// Nothing.
    Plain,
    /// Channels are scaled by the energy of queries.
    Scaled {
        /// Without the mean.
        centered: bool,
    },
    /// Rotated, without the mean.
    Rotated,
    /// Without the mean, each channel in steps of its own, in the order of their bits.
    Allotted,
}

/// A layer's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// The first line.
    pub line: u32,
    /// The domain of keys.
    pub keys: KeyDomain,
    /// Whether values are rotated, without their mean.
    pub values_rotated: bool,
}

/// Stands for a table that a domain does not have.
const NONE: u32 = u32::MAX;

impl Tables {
    /// Bytes for each KV head.
    pub fn head_bytes(&self, head_dim: usize) -> usize {
        4 * self.words(head_dim)[2] as usize
    }

    /// Words that tell a kernel (`Tables` in `kernels/tables.inc`).
    pub(crate) fn words(&self, head_dim: usize) -> [u32; 8] {
        let mut end = 0;
        let mut table = |is_there: bool, words: usize| {
            let start = if is_there { end } else { NONE };
            end += if is_there { words as u32 } else { 0 };
            start
        };
        let (domain, mean, factors) = match self.keys {
            KeyDomain::Plain => (0, false, false),
            KeyDomain::Scaled { centered } => (1, centered, true),
            KeyDomain::Rotated => (2, true, false),
            KeyDomain::Allotted => (3, true, true),
        };
        let allotted = self.keys == KeyDomain::Allotted;
        let key_mean = table(mean, head_dim);
        let key_factors = table(factors, head_dim);
        let key_weights = table(allotted, head_dim);
        let value_mean = table(self.values_rotated, head_dim);
        let places = table(allotted, head_dim / 2);
        [domain, self.line, end, key_mean, key_factors, key_weights, value_mean, places]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_hold_what_their_domain_has() {
        let bytes = |keys, values_rotated| Tables { line: 7, keys, values_rotated }.head_bytes(128);
        assert_eq!(bytes(KeyDomain::Plain, false), 0);
        assert_eq!(bytes(KeyDomain::Scaled { centered: false }, false), 4 * 128);
        assert_eq!(bytes(KeyDomain::Scaled { centered: true }, false), 8 * 128);
        assert_eq!(bytes(KeyDomain::Rotated, true), 8 * 128);
        assert_eq!(bytes(KeyDomain::Allotted, true), 18 * 128);
        let words = Tables { line: 7, keys: KeyDomain::Allotted, values_rotated: true }.words(8);
        assert_eq!(words, [3, 7, 36, 0, 8, 16, 24, 32]);
        let words = Tables { line: 7, keys: KeyDomain::Plain, values_rotated: true }.words(8);
        assert_eq!(words, [0, 7, 8, NONE, NONE, NONE, 0, NONE]);
    }
}
