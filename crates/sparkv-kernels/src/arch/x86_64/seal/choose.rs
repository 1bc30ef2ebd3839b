//! Which channels of a row are kept, and what the others are recovered from: [`crate::select`] in vectors.

use std::arch::x86_64::*;

use super::vectors::{LANES, f64_lanes, largest_magnitude, load_channels, load_f64, load_u8};
use crate::layout::BLOCK;
use crate::select::{Fill, Levels, Packing, mean_of};

/// Rows whose searches run side by side: every step of a search waits for the one before.
const TOGETHER: usize = 4;

/// A bit for each channel, `[W][32 tokens]`: channel c is bit c % 64 of word c / 64.
pub(super) type Bits<const W: usize> = [[u64; BLOCK]; W];

/// The choices for a block.
pub(super) struct Chosen<const W: usize> {
    pub(super) kept: Bits<W>,
    pub(super) negative: Bits<W>,
    /// Pruned, and recovered with the higher magnitude.
    pub(super) high: Bits<W>,
    /// The magnitude, or the lower and the higher one.
    pub(super) fills: [[f32; BLOCK]; 2],
    pub(super) largest: [f32; BLOCK],
}

/// The channels of a row of `head_dim`.
fn channels<const W: usize>(head_dim: usize) -> [u64; W] {
    std::array::from_fn(|word| match head_dim.saturating_sub(64 * word) {
        0 => 0,
        rest => u64::MAX >> (64 - rest.min(64)),
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn choose<const W: usize>(rows: &[f32], head_dim: usize, packing: &Packing) -> Chosen<W> {
    let none = [[0; BLOCK]; W];
    let mut chosen = Chosen {
        kept: none,
        negative: none,
        high: none,
        fills: [[0.0; BLOCK]; 2],
        largest: [0.0; BLOCK],
    };
    for first in (0..BLOCK).step_by(TOGETHER) {
        let rows: [&[f32]; TOGETHER] =
            std::array::from_fn(|row| &rows[(first + row) * head_dim..][..head_dim]);
        let kept = largest_channels::<W>(&rows, packing.kept);
        for (token, (row, kept)) in (first..).zip(rows.iter().zip(kept)) {
            choose_fills(&mut chosen, token, row, &kept, packing);
            chosen.largest[token] = largest_magnitude(row);
        }
    }
    chosen
}

/// A search for the largest magnitudes of a row, most significant byte first.
#[derive(Clone, Copy)]
struct Search<const W: usize> {
    /// Channels known to be among the largest.
    kept: [u64; W],
    /// Channels that are equal so far.
    tied: [u64; W],
    /// How many of the tied ones are still wanted; at least one, and no more than there are.
    missing: u32,
}

/// The `count` channels of largest magnitude of each of the rows; among equals the lower channel.
///
/// Bits of a float without the sign order as its magnitude does. Two bytes of them, the exponent and the
/// first 8 bits of the mantissa, leave few ties.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn largest_channels<const W: usize>(rows: &[&[f32]; TOGETHER], count: usize) -> [[u64; W]; TOGETHER] {
    let zero = [[_mm512_setzero_si512(); W]; TOGETHER];
    let (mut first, mut second) = (zero, zero);
    for (row, values) in rows.iter().enumerate() {
        for word in 0..W {
            [first[row][word], second[row][word]] = magnitude_bytes(values, word, &UPPER);
        }
    }
    let tied = channels(rows[0].len());
    let mut searches = [Search { kept: [0; W], tied, missing: count as u32 }; TOGETHER];
    narrow(&mut first, &mut searches);
    narrow(&mut second, &mut searches);
    for (search, row) in searches.iter_mut().zip(rows) {
        if search.missing != count_ones(&search.tied) {
            break_ties(search, row);
        } else {
            (0..W).for_each(|word| search.kept[word] |= search.tied[word]);
        }
    }
    searches.map(|search| search.kept)
}

/// Where the upper two bytes of two registers of 32-bit lanes are: those of highest value, then the next.
const UPPER: [u8; 64] = byte_places(3);

/// Where the lower two are.
const LOWER: [u8; 64] = byte_places(1);

const fn byte_places(first: u8) -> [u8; 64] {
    let mut places = [0; 64];
    let mut lane = 0;
    while lane < 32 {
        places[lane] = 4 * lane as u8 + first;
        places[32 + lane] = 4 * lane as u8 + first - 1;
        lane += 1;
    }
    places
}

/// The bytes at `places` of the magnitudes of 64 channels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn magnitude_bytes(row: &[f32], word: usize, places: &[u8; 64]) -> [__m512i; 2] {
    let places = load_u8(places);
    // Without the sign, the exponent is a byte of its own.
    let [a, b, c, d] = std::array::from_fn(|part| {
        let bits = _mm512_castps_si512(load_channels(row, 64 * word + LANES * part));
        _mm512_slli_epi32::<1>(bits)
    });
    let low = _mm512_permutex2var_epi8(a, places, b);
    let high = _mm512_permutex2var_epi8(c, places, d);
    [_mm512_shuffle_i64x2::<0x44>(low, high), _mm512_shuffle_i64x2::<0xee>(low, high)]
}

/// Goes on with the next byte of the magnitudes: finds the largest byte that enough tied channels reach.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn narrow<const W: usize, const R: usize>(bytes: &mut [[__m512i; W]; R], searches: &mut [Search<W>; R]) {
    // Others are 0, which reaches no border that is tried.
    for (bytes, search) in bytes.iter_mut().zip(&*searches) {
        for word in 0..W {
            bytes[word] = _mm512_maskz_mov_epi8(search.tied[word], bytes[word]);
        }
    }
    let mut borders = [0u32; R];
    for bit in (0..8).rev() {
        for row in 0..R {
            let border = borders[row] | 1 << bit;
            let lanes = _mm512_set1_epi8(border as i8);
            let mut reached = 0;
            for word in 0..W {
                reached += _mm512_cmpge_epu8_mask(bytes[row][word], lanes).count_ones();
            }
            borders[row] = if reached >= searches[row].missing { border } else { borders[row] };
        }
    }
    for row in 0..R {
        let search = &mut searches[row];
        let lanes = _mm512_set1_epi8(borders[row] as i8);
        for word in 0..W {
            let above = _mm512_cmpgt_epu8_mask(bytes[row][word], lanes);
            search.kept[word] |= above;
            search.missing -= above.count_ones();
            search.tied[word] = _mm512_mask_cmpeq_epu8_mask(search.tied[word], bytes[row][word], lanes);
        }
    }
}

/// Looks at the lower two bytes, and takes the first of the channels that are still tied.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn break_ties<const W: usize>(search: &mut Search<W>, row: &[f32]) {
    let (mut third, mut fourth) = ([_mm512_setzero_si512(); W], [_mm512_setzero_si512(); W]);
    for word in 0..W {
        [third[word], fourth[word]] = magnitude_bytes(row, word, &LOWER);
    }
    let mut searches = [*search];
    narrow(&mut [third], &mut searches);
    narrow(&mut [fourth], &mut searches);
    [*search] = searches;
    for word in 0..W {
        let taken = search.missing.min(search.tied[word].count_ones());
        let lowest = u64::MAX.checked_shl(taken).map_or(u64::MAX, |rest| !rest);
        search.kept[word] |= _pdep_u64(lowest, search.tied[word]);
        search.missing -= taken;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn count_ones<const W: usize>(bits: &[u64; W]) -> u32 {
    bits.iter().map(|word| word.count_ones()).sum()
}

/// Sets what is known of row `token` but its largest magnitude.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn choose_fills<const W: usize>(
    chosen: &mut Chosen<W>,
    token: usize,
    row: &[f32],
    kept: &[u64; W],
    packing: &Packing,
) {
    let all = channels::<W>(row.len());
    let mut low: [u64; W] = std::array::from_fn(|word| all[word] & !kept[word]);
    if packing.levels == Levels::Two {
        let border = mean(row, Fill::MeanMagnitude, &low);
        let mut high = exceeds::<W>(row, border);
        for word in 0..W {
            high[word] &= low[word];
            low[word] &= !high[word];
            chosen.high[word][token] = high[word];
        }
        chosen.fills[1][token] = mean(row, packing.fill, &high);
    }
    chosen.fills[0][token] = mean(row, packing.fill, &low);
    for word in 0..W {
        let parts: [u64; 4] = std::array::from_fn(|part| {
            let values = load_channels(row, 64 * word + LANES * part);
            u64::from(_mm512_movepi32_mask(_mm512_castps_si512(values)))
        });
        chosen.kept[word][token] = kept[word];
        chosen.negative[word][token] = parts[0] | parts[1] << 16 | parts[2] << 32 | parts[3] << 48;
    }
}

/// The channels whose magnitude is above `border`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn exceeds<const W: usize>(row: &[f32], border: f32) -> [u64; W] {
    let border = _mm512_set1_ps(border);
    std::array::from_fn(|word| {
        let parts: [u64; 4] = std::array::from_fn(|part| {
            let magnitudes = _mm512_abs_ps(load_channels(row, 64 * word + LANES * part));
            u64::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(magnitudes, border))
        });
        parts[0] | parts[1] << 16 | parts[2] << 32 | parts[3] << 48
    })
}

/// The mean over the channels that are `counted`: a lane of the sum for each remainder of the channel by 8,
/// as in the reference.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn mean<const W: usize>(row: &[f32], fill: Fill, counted: &[u64; W]) -> f32 {
    let mut sums = _mm512_setzero_pd();
    for (part, lanes) in row.as_chunks::<8>().0.iter().enumerate() {
        let counted = (counted[part / 8] >> (8 * (part % 8))) as u8;
        let values = load_f64(lanes);
        let terms = match fill {
            Fill::RootMeanSquare => _mm512_mul_pd(values, values),
            Fill::MeanMagnitude => _mm512_abs_pd(values),
        };
        sums = _mm512_mask_add_pd(sums, counted, sums, terms);
    }
    mean_of(&f64_lanes(sums), count_ones(counted), fill)
}
