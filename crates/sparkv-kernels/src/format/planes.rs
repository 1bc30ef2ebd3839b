//! Rows of 2 to 6 bits a channel.
//!
//! A row is its scale times odd numbers: channel j has the code u of b bits, which stands for 2 u + 1 - 2^b steps of half
//! the usual size. The scale is what makes the sum of w_j (x_j - scale * odd_j)^2 least, by two rounds of least squares
//! from where it would be for a Gaussian.
//!
//! A block is a section for all channels of the same bits, the most bits first, and 32 f16 scales. A section is one plane
//! or two, of 4 bits, 2 or 1 of each code, the lowest first. **Units**, 64 codes each, are put side by side in the bits of a
//! stored unit of a plane: two of 4 bits, four of 2, eight of 1; the first in the lowest. A unit of keys is four
//! channels of 16 tokens; the two groups of tokens of a block take turns. One of values is four tokens of 16 channels (or
//! of 8, where a row ends), the quads of a block's tokens one after the other.

use super::float16::{read_f16, store_f16};
use super::lanes::{QUAD, Unit};
use super::layout::Layout;
use super::sections::{Stored, sections};
use super::widths::Widths;
use super::{BLOCK, F16_BYTES, MAX_HEAD_DIM, Side};

/// Codes of a block (BLOCK, head_dim).
type Codes = [[u8; MAX_HEAD_DIM]; BLOCK];

impl Stored {
    fn encode(&self, codes: &Codes, bytes: &mut [u8]) {
        let mut start = self.start;
        for &plane in self.section.planes() {
            let mask = (1u8 << plane.bits) - 1;
            for unit in 0..self.units() {
                let (range, lowest) = self.in_plane(plane, start, unit);
                let elements = self.unit(codes, unit);
                for (byte, code) in bytes[range].iter_mut().zip(elements) {
                    *byte |= (code >> plane.lowest & mask) << lowest;
                }
            }
            start += self.plane_bytes(plane);
        }
    }

    /// The codes of a unit, in the order of storage.
    fn unit(&self, codes: &Codes, unit: usize) -> Unit {
        let mut elements = [0; size_of::<Unit>()];
        let (token, channel) = self.place(unit, 0);
        match self.side {
            Side::Keys => {
                for (lane, row) in elements.as_chunks_mut::<QUAD>().0.iter_mut().zip(&codes[token..]) {
                    if let Some(quad) = row[channel..].first_chunk() {
                        *lane = *quad;
                    }
                }
            }
            Side::Values => {
                for (term, row) in codes[token..].iter().take(QUAD).enumerate() {
                    let lanes = elements[term..].iter_mut().step_by(QUAD);
                    lanes.zip(&row[channel..]).for_each(|(element, code)| *element = *code);
                }
            }
        }
        elements
    }

    /// The codes of a unit, zeros behind its end.
    #[inline(always)]
    pub(crate) fn read_unit(&self, bytes: &[u8], unit: usize) -> Unit {
        let mut codes = [0; size_of::<Unit>()];
        let mut start = self.start;
        for &plane in self.section.planes() {
            let (range, lowest) = self.in_plane(plane, start, unit);
            let mask = (1u8 << plane.bits) - 1;
            for (code, byte) in codes.iter_mut().zip(&bytes[range]) {
                *code |= (byte >> lowest & mask) << plane.lowest;
            }
            start += self.plane_bytes(plane);
        }
        codes
    }

    /// Calls `put` with (token, channel, odd number) of every element.
    fn for_each(&self, bytes: &[u8], mut put: impl FnMut(usize, usize, i32)) {
        for unit in 0..self.units() {
            let codes = self.read_unit(bytes, unit);
            for (element, code) in codes.into_iter().enumerate().take(self.unit_len(unit)) {
                let (token, channel) = self.place(unit, element);
                put(token, channel, 2 * i32::from(code) - self.section.largest());
            }
        }
    }
}

/// Writes a block. `weights` (head_dim): what an error of a channel counts; empty where all count alike.
#[inline(always)] // into functions that are compiled for the instructions
pub(crate) fn encode(layout: &Layout, widths: &Widths, rows: &[f32], weights: &[f32], bytes: &mut [u8]) {
    let mut codes = [[0; MAX_HEAD_DIM]; BLOCK];
    let scales = bytes.len() - BLOCK * F16_BYTES;
    let (planes, scales) = bytes.split_at_mut(scales);
    let quantizer = Quantizer::new(widths, weights);
    let rows = rows.chunks_exact(layout.head_dim()).zip(&mut codes).zip(scales.as_chunks_mut().0);
    for ((row, codes), scale) in rows {
        store_f16(quantizer.quantize(row, codes), scale);
    }
    planes.fill(0);
    sections(layout.side(), widths).for_each(|section| section.encode(&codes, planes));
}

/// Calls `put` with (token, channel, value) of every element of a block; of channels without bits, too.
pub(super) fn for_each(
    layout: &Layout,
    widths: &Widths,
    bytes: &[u8],
    mut put: impl FnMut(usize, usize, f32),
) {
    let (planes, scales) = bytes.split_at(bytes.len() - BLOCK * F16_BYTES);
    for section in sections(layout.side(), widths) {
        section.for_each(planes, |token, channel, odd| {
            put(token, channel, odd as f32 * read_f16(scales, token))
        });
    }
    for token in 0..BLOCK {
        (widths.stored()..layout.head_dim()).for_each(|channel| put(token, channel, 0.0));
    }
}

/// Lanes that sums have, so that they are the same whatever the vectors.
const SUMS: usize = 16;

/// What rounds rows.
struct Quantizer {
    /// Channels that have bits.
    channels: usize,
    /// (channels): half of 2^bits.
    half: [f32; MAX_HEAD_DIM],
    /// (channels): see [`half_step`](super::widths::half_step).
    steps: [f32; MAX_HEAD_DIM],
    /// (channels)
    weights: [f32; MAX_HEAD_DIM],
}

impl Quantizer {
    #[inline(always)]
    fn new(widths: &Widths, weights: &[f32]) -> Self {
        let mut all = Self {
            channels: widths.stored(),
            half: [0.0; MAX_HEAD_DIM],
            steps: [0.0; MAX_HEAD_DIM],
            weights: [1.0; MAX_HEAD_DIM],
        };
        for section in widths.sections() {
            let channels = section.first..section.first + section.channels;
            all.half[channels.clone()].fill(f32::from(1u8 << (section.bits - 1)));
            all.steps[channels].fill(section.half_step());
        }
        all.weights.iter_mut().zip(weights).for_each(|(to, weight)| *to = *weight);
        all
    }

    /// Codes for the values of `row`, and the scale.
    #[inline(always)]
    fn quantize(&self, row: &[f32], codes: &mut [u8; MAX_HEAD_DIM]) -> f32 {
        let row = &row[..self.channels];
        let mut sums = [0f32; SUMS];
        for (values, steps) in row.chunks(SUMS).zip(self.steps.chunks(SUMS)) {
            for ((sum, value), step) in sums.iter_mut().zip(values).zip(steps) {
                *sum += (value * step) * (value * step);
            }
        }
        // What is added keeps rows of zeros from dividing by one.
        let mut scale = (total(sums) / self.channels.max(1) as f32).sqrt() + TINY;
        for _ in 0..2 {
            scale = self.least_squares(row, scale);
        }
        for ((code, value), half) in codes.iter_mut().zip(row).zip(&self.half) {
            *code = to_code(*value, 0.5 / scale, *half);
        }
        scale
    }

    /// The best scale for the codes that `scale` gives.
    #[inline(always)]
    fn least_squares(&self, row: &[f32], scale: f32) -> f32 {
        let inverse = 0.5 / scale;
        let (mut products, mut squares) = ([0f32; SUMS], [0f32; SUMS]);
        let channels = row.chunks(SUMS).zip(self.half.chunks(SUMS)).zip(self.weights.chunks(SUMS));
        for ((values, half), weights) in channels {
            for lane in 0..values.len() {
                let odd = 2.0 * (f32::from(to_code(values[lane], inverse, half[lane])) - half[lane]) + 1.0;
                products[lane] += weights[lane] * values[lane] * odd;
                squares[lane] += weights[lane] * odd * odd;
            }
        }
        (total(products) / total(squares).max(1e-12)).abs() + TINY
    }
}

/// What a scale is at least, so that it can divide.
const TINY: f32 = 1e-9;

/// floor(value * inverse), in [-half, half), plus half.
#[inline(always)]
fn to_code(value: f32, inverse: f32, half: f32) -> u8 {
    (value * inverse + half).clamp(0.0, 2.0 * half - 1.0) as u8
}

#[inline(always)]
fn total(sums: [f32; SUMS]) -> f32 {
    let mut sums = sums;
    let mut width = SUMS / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}
