//! Which channels of a row are kept, and what the others are recovered from: [`crate::format::selection`] in vectors.

use std::arch::x86_64::*;

use super::vectors::{Row, largest_magnitude, load_8, load_u8, load_word, store_8, transpose_8};
use crate::format::selection::normalizer;
use crate::format::{BLOCK, Fill, Packing};

/// Rows that are worked on side by side: every step of a search waits for the one before.
const TOGETHER: usize = 8;

/// So many tied channels are looked at one by one.
const FEW: u32 = 8;

/// A bit for each channel, `[W][32 tokens]`: channel c is bit c % 64 of word c / 64.
pub(super) type Bits<const W: usize> = [[u64; BLOCK]; W];

/// The choices for a block.
pub(super) struct Chosen<const W: usize> {
    pub(super) kept: Bits<W>,
    pub(super) negative: Bits<W>,
    /// The magnitude of what is not kept.
    pub(super) fills: [f32; BLOCK],
    pub(super) largest: [f32; BLOCK],
}

/// The channels of a row of `head_dim`.
fn channels<const W: usize>(head_dim: usize) -> [u64; W] {
    std::array::from_fn(|word| match head_dim.saturating_sub(64 * word) {
        0 => 0,
        rest => u64::MAX >> (64 - rest.min(64)),
    })
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn choose<const W: usize>(
    rows: &[Row<W>; BLOCK],
    head_dim: usize,
    packing: &Packing,
) -> Chosen<W> {
    let none = [[0; BLOCK]; W];
    let mut chosen = Chosen { kept: none, negative: none, fills: [0.0; BLOCK], largest: [0.0; BLOCK] };
    let channels = channels::<W>(head_dim);
    for (rows, first) in rows.as_chunks::<TOGETHER>().0.iter().zip((0..).step_by(TOGETHER)) {
        let kept = largest_channels(rows, channels, packing.kept);
        let mut pruned = kept;
        for row in 0..TOGETHER {
            for word in 0..W {
                pruned[row][word] = channels[word] & !kept[row][word];
                chosen.kept[word][first + row] = kept[row][word];
                chosen.negative[word][first + row] = negative(&rows[row][word]);
            }
            chosen.largest[first + row] = largest_magnitude(&rows[row]);
        }
        let largest = &chosen.largest.as_chunks().0[first / TOGETHER];
        let means = means(rows, packing.fill, largest, &pruned);
        store_8(&mut chosen.fills.as_chunks_mut().0[first / TOGETHER], means);
    }
    chosen
}

/// The channels that are negative.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn negative(word: &[f32; 64]) -> u64 {
    let [a, b, c, d] = load_word(word);
    join([
        _mm512_movepi32_mask(_mm512_castps_si512(a)),
        _mm512_movepi32_mask(_mm512_castps_si512(b)),
        _mm512_movepi32_mask(_mm512_castps_si512(c)),
        _mm512_movepi32_mask(_mm512_castps_si512(d)),
    ])
}

fn join(masks: [u16; 4]) -> u64 {
    let [a, b, c, d] = masks.map(u64::from);
    a | b << 16 | c << 32 | d << 48
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
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn largest_channels<const W: usize>(
    rows: &[Row<W>; TOGETHER],
    channels: [u64; W],
    count: usize,
) -> [[u64; W]; TOGETHER] {
    let zero = [[_mm512_setzero_si512(); W]; TOGETHER];
    let (mut first, mut second) = (zero, zero);
    for row in 0..TOGETHER {
        for word in 0..W {
            [first[row][word], second[row][word]] = magnitude_bytes(&rows[row][word], &UPPER);
        }
    }
    let mut searches = [Search { kept: [0; W], tied: channels, missing: count as u32 }; TOGETHER];
    narrow(&first, &mut searches);
    narrow(&second, &mut searches);
    for (search, row) in searches.iter_mut().zip(rows) {
        match count_ones(&search.tied) {
            tied if tied == search.missing => {
                (0..W).for_each(|word| search.kept[word] |= search.tied[word]);
            }
            ..=FEW => take_largest(search, row),
            _ => break_ties(search, row),
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
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn magnitude_bytes(word: &[f32; 64], places: &[u8; 64]) -> [__m512i; 2] {
    let places = load_u8(places);
    // Without the sign, the exponent is a byte of its own.
    let [a, b, c, d] = load_word(word);
    let [a, b] = [_mm512_castps_si512(a), _mm512_castps_si512(b)];
    let [c, d] = [_mm512_castps_si512(c), _mm512_castps_si512(d)];
    let (a, b) = (_mm512_slli_epi32::<1>(a), _mm512_slli_epi32::<1>(b));
    let (c, d) = (_mm512_slli_epi32::<1>(c), _mm512_slli_epi32::<1>(d));
    let low = _mm512_permutex2var_epi8(a, places, b);
    let high = _mm512_permutex2var_epi8(c, places, d);
    [_mm512_shuffle_i64x2::<0x44>(low, high), _mm512_shuffle_i64x2::<0xee>(low, high)]
}

/// Goes on with the next byte of the magnitudes: finds the largest byte that enough tied channels reach.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn narrow<const W: usize, const R: usize>(bytes: &[[__m512i; W]; R], searches: &mut [Search<W>; R]) {
    // Others are 0, which reaches no border that is tried.
    let mut tied = [[_mm512_setzero_si512(); W]; R];
    for row in 0..R {
        for word in 0..W {
            tied[row][word] = _mm512_maskz_mov_epi8(searches[row].tied[word], bytes[row][word]);
        }
    }
    let mut borders = [0u32; R];
    for bit in (0..8).rev() {
        for row in 0..R {
            let border = _mm512_set1_epi8((borders[row] | 1 << bit) as i8);
            let mut reached = 0;
            for bytes in tied[row] {
                reached += _mm512_cmpge_epu8_mask(bytes, border).count_ones();
            }
            // Arithmetic, not a branch: it would be as good as random.
            borders[row] |= u32::from(reached >= searches[row].missing) << bit;
        }
    }
    for row in 0..R {
        let search = &mut searches[row];
        let border = _mm512_set1_epi8(borders[row] as i8);
        for (word, bytes) in tied[row].into_iter().enumerate() {
            let above = _mm512_cmpgt_epu8_mask(bytes, border);
            search.kept[word] |= above;
            search.missing -= above.count_ones();
            search.tied[word] = _mm512_mask_cmpeq_epu8_mask(search.tied[word], bytes, border);
        }
    }
}

/// Takes one channel after the other: quick for a few.
#[inline]
fn take_largest<const W: usize>(search: &mut Search<W>, row: &Row<W>) {
    for _ in 0..search.missing {
        let mut largest: Option<(u32, usize, u32)> = None;
        for (word, values) in row.iter().enumerate() {
            let mut rest = search.tied[word];
            while rest != 0 {
                let bit = rest.trailing_zeros();
                let magnitude = values[bit as usize].abs().to_bits();
                if largest.is_none_or(|(other, ..)| magnitude > other) {
                    largest = Some((magnitude, word, bit));
                }
                rest &= rest - 1;
            }
        }
        if let Some((_, word, bit)) = largest {
            search.kept[word] |= 1 << bit;
            search.tied[word] &= !(1 << bit);
        }
    }
}

/// Looks at the lower two bytes, and takes the first of the channels that are still tied.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn break_ties<const W: usize>(search: &mut Search<W>, row: &Row<W>) {
    let (mut third, mut fourth) = ([_mm512_setzero_si512(); W], [_mm512_setzero_si512(); W]);
    for word in 0..W {
        [third[word], fourth[word]] = magnitude_bytes(&row[word], &LOWER);
    }
    let mut searches = [*search];
    narrow(&[third], &mut searches);
    narrow(&[fourth], &mut searches);
    [*search] = searches;
    for word in 0..W {
        let taken = search.missing.min(search.tied[word].count_ones());
        let lowest = u64::MAX.checked_shl(taken).map_or(u64::MAX, |rest| !rest);
        search.kept[word] |= _pdep_u64(lowest, search.tied[word]);
        search.missing -= taken;
    }
}

/// The means over the channels that are `counted`, with a lane of the sum for each remainder of the channel
/// by 8, as the reference has them.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn means<const W: usize>(
    rows: &[Row<W>; TOGETHER],
    fill: Fill,
    largest: &[f32; TOGETHER],
    counted: &[[u64; W]; TOGETHER],
) -> __m256 {
    let normalizers = largest.map(normalizer);
    let mut sums = [_mm256_setzero_ps(); TOGETHER];
    let mut counts = [0.0; TOGETHER];
    for (row, (values, counted)) in rows.iter().zip(counted).enumerate() {
        sums[row] = match fill {
            Fill::RootMeanSquare => sum_of::<W, true>(values, normalizers[row], counted),
            Fill::MeanMagnitude => sum_of::<W, false>(values, normalizers[row], counted),
        };
        counts[row] = count_ones(counted) as f32;
    }
    let [first, rest @ ..] = transpose_8(sums);
    let mut sum = first;
    for lane in rest {
        sum = _mm256_add_ps(sum, lane);
    }
    let counts = load_8(&counts);
    let has_any = _mm256_cmp_ps_mask::<_CMP_NEQ_UQ>(counts, _mm256_setzero_ps());
    let means = _mm256_maskz_div_ps(has_any, sum, counts);
    let normalized = if fill == Fill::RootMeanSquare { _mm256_sqrt_ps(means) } else { means };
    // The minimum of a NaN and another is the second operand.
    _mm256_min_ps(_mm256_div_ps(normalized, load_8(&normalizers)), load_8(largest))
}

/// The sum of squares, or of magnitudes, of the channels that are `counted`, times the `normalizer`.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn sum_of<const W: usize, const SQUARES: bool>(row: &Row<W>, normalizer: f32, counted: &[u64; W]) -> __m256 {
    let (sign, normalizer) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(normalizer));
    let mut sum = _mm256_setzero_ps();
    for (word, counted) in row.iter().zip(counted) {
        for (lanes, counted) in word.as_chunks().0.iter().zip(counted.to_le_bytes()) {
            let values = _mm256_mul_ps(_mm256_andnot_ps(sign, load_8(lanes)), normalizer);
            let terms = if SQUARES { _mm256_mul_ps(values, values) } else { values };
            sum = _mm256_mask_add_ps(sum, counted, sum, terms);
        }
    }
    sum
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn count_ones<const W: usize>(bits: &[u64; W]) -> u32 {
    bits.iter().map(|word| word.count_ones()).sum()
}
