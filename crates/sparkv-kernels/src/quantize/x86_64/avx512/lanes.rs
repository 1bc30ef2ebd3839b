//! Bits and bytes brought into lane order: [`crate::format::lanes`] in vectors.
//!
//! Bits go in units, see [`Shape`].

use std::arch::x86_64::*;

use super::choose::Bits;
use super::vectors::{load_128, load_u8, load_u16, load_u64, store_512, store_u64, transpose};
use crate::format::lanes::{CHANNELS, QUAD, Shape};
use crate::format::{BLOCK, GROUP, Side};

/// The units of a block.
pub(super) type Units<const W: usize> = [[u64; BLOCK]; W];

/// Bytes of a block, `[token][channel]`.
pub(super) type Codes<const W: usize> = [[[u8; 64]; W]; BLOCK];

/// Bits in lane order.
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn bits_in_lane_order<const W: usize>(bits: &Bits<W>, shape: Shape) -> Units<W> {
    let mut units = [[0; BLOCK]; W];
    match shape.side {
        Side::Keys => key_units(bits, shape.head_dim, units.as_flattened_mut()),
        Side::Values => {
            for (bits, units) in bits.iter().zip(&mut units) {
                value_units(bits, units);
            }
        }
    }
    units
}

/// Where byte j of the words of 16 tokens is, for 4 of the bytes: `[j][token]`.
const fn bytes_of_words(first: u8) -> [u8; 64] {
    let mut places = [0; 64];
    let mut place = 0;
    while place < 64 {
        places[place] = 8 * (place % 16) as u8 + first + (place / 16) as u8;
        place += 1;
    }
    places
}

const BYTES_OF_WORDS: [[u8; 64]; 2] = [bytes_of_words(0), bytes_of_words(4)];

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn key_units<const W: usize>(bits: &Bits<W>, head_dim: usize, units: &mut [u64]) {
    for group in 0..BLOCK / GROUP {
        for (word, bits) in bits.iter().enumerate() {
            let words = bits.as_chunks().0;
            let (low, high) = (load_u64(&words[2 * group]), load_u64(&words[2 * group + 1]));
            for (half, places) in BYTES_OF_WORDS.iter().enumerate() {
                let bytes = _mm512_permutex2var_epi8(low, load_u8(places), high);
                // Where the row ends within the word, the next group writes over what is too much.
                let unit = group * head_dim / QUAD + 16 * word + 8 * half;
                store_u64(&mut units[unit..], nibbles(bytes));
            }
        }
    }
}

/// From `[4][16 tokens]` bytes of 8 channels, `[8][16 tokens]` of 4 channels.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn nibbles(bytes: __m512i) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    let places = _mm512_set1_epi16(0x1001); // 1, 16: two nibbles make a byte
    let even = _mm512_maddubs_epi16(_mm512_and_si512(bytes, nibble), places);
    let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
    let odd = _mm512_slli_epi16::<8>(_mm512_maddubs_epi16(odd, places));
    let evens_then_odds =
        _mm512_broadcast_i32x4(_mm_set_epi64x(0x0f0d_0b09_0705_0301, 0x0e0c_0a08_0604_0200));
    _mm512_shuffle_epi8(_mm512_or_si512(even, odd), evens_then_odds)
}

/// Where 16 channels of 4 tokens are in the words of 16: `[2 sixteens][4 fours][token]`, of 4 sixteens.
const fn sixteens_of_words(first: u16) -> [u16; 32] {
    let mut places = [0; 32];
    let mut place = 0;
    while place < 32 {
        places[place] = 4 * (place % 16) as u16 + first + (place / 16) as u16;
        place += 1;
    }
    places
}

const SIXTEENS_OF_WORDS: [[u16; 32]; 2] = [sixteens_of_words(0), sixteens_of_words(2)];

/// The units of 64 channels.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn value_units(bits: &[u64; BLOCK], units: &mut [u64; BLOCK]) {
    let words = bits.as_chunks().0;
    let words = [load_u64(&words[0]), load_u64(&words[1]), load_u64(&words[2]), load_u64(&words[3])];
    for (pair, places) in SIXTEENS_OF_WORDS.iter().enumerate() {
        let places = load_u16(places);
        let first = _mm512_permutex2var_epi16(words[0], places, words[1]);
        let last = _mm512_permutex2var_epi16(words[2], places, words[3]);
        let sixteens = [
            _mm512_shuffle_i64x2::<0x44>(first, last), // the lower 16 channels of the pair, of 32 tokens
            _mm512_shuffle_i64x2::<0xee>(first, last),
        ];
        for (half, sixteen) in sixteens.into_iter().enumerate() {
            store_u64(&mut units[16 * pair + 8 * half..], tokens_together(sixteen));
        }
    }
}

/// From `[4 tokens][16 channels]` of bits in every 64, `[16 channels][4 tokens]`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn tokens_together(bits: __m512i) -> __m512i {
    // Squares of 4 x 4, first of nibbles, then of bits: two exchanges transpose one.
    let bits = exchange::<12>(bits, 0x0000_f0f0_0000_f0f0);
    let bits = exchange::<24>(bits, 0x0000_0000_ff00_ff00);
    let bits = exchange::<3>(bits, 0x0a0a_0a0a_0a0a_0a0a);
    exchange::<6>(bits, 0x00cc_00cc_00cc_00cc)
}

/// Exchanges the bits at `places` with those `DISTANCE` higher.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn exchange<const DISTANCE: u32>(bits: __m512i, places: i64) -> __m512i {
    let differ = _mm512_xor_si512(bits, _mm512_srli_epi64::<DISTANCE>(bits));
    let differ = _mm512_and_si512(differ, _mm512_set1_epi64(places));
    _mm512_xor_si512(_mm512_xor_si512(bits, differ), _mm512_slli_epi64::<DISTANCE>(differ))
}

/// Writes registers one after the other, each whole: what is too much of one, the next writes over. So there
/// must be room for one behind the last.
pub(super) struct Output<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) len: usize,
}

impl Output<'_> {
    /// Writes the bytes that `kept` has a bit for.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn push(&mut self, lanes: __m512i, kept: u64) {
        // In a register: compressing to memory is many times slower.
        store_512(&mut self.bytes[self.len..], _mm512_maskz_compress_epi8(kept, lanes));
        self.len += kept.count_ones() as usize;
    }
}

/// Writes the bytes of `codes` that are kept to `output` in lane order, in quads. `kept` gives the bits of a
/// unit; a block of values has `rows` of them.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn write_quads<const W: usize>(
    codes: &Codes<W>,
    shape: Shape,
    rows: usize,
    kept: impl Fn(usize) -> u64,
    output: &mut Output<'_>,
) {
    let mut unit = 0;
    match shape.side {
        Side::Keys => {
            let quads = shape.head_dim / QUAD;
            for group in codes.as_chunks::<GROUP>().0 {
                for word in 0..quads.div_ceil(16) {
                    let mut lanes = [_mm512_setzero_si512(); GROUP];
                    for (lanes, row) in lanes.iter_mut().zip(group) {
                        *lanes = load_u8(&row[word]);
                    }
                    let lanes = transpose(lanes);
                    for lanes in lanes.into_iter().take(quads - 16 * word) {
                        output.push(lanes, kept(unit));
                        unit += 1;
                    }
                }
            }
        }
        Side::Values => {
            let interleave = load_u8(&INTERLEAVE);
            for first in (0..shape.head_dim).step_by(CHANNELS) {
                for quad in codes[..rows].as_chunks::<QUAD>().0 {
                    let [a, b, c, d] = quad;
                    let [a, b] = [load_128(&a.as_flattened()[first..]), load_128(&b.as_flattened()[first..])];
                    let [c, d] = [load_128(&c.as_flattened()[first..]), load_128(&d.as_flattened()[first..])];
                    let lanes = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
                    let lanes = _mm512_inserti32x4::<2>(lanes, c);
                    let lanes = _mm512_inserti32x4::<3>(lanes, d);
                    output.push(_mm512_permutexvar_epi8(interleave, lanes), kept(unit));
                    unit += 1;
                }
            }
        }
    }
}

/// From `[4 tokens][16 channels]` of bytes, `[16 channels][4 tokens]`.
const INTERLEAVE: [u8; 64] = {
    let mut places = [0; 64];
    let mut place = 0;
    while place < 64 {
        places[place] = (16 * (place % 4) + place / 4) as u8;
        place += 1;
    }
    places
};
