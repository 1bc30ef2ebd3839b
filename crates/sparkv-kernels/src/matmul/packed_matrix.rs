//! Matrices of weights as kernels want them.

use std::ops::Range;

use memmap2::MmapMut;

use super::blocks::Block;
use super::codes::{self, QUADS};
use super::weight_type::{COLUMNS, SUPER, Shape, WeightType};
use crate::format::F16_BYTES;
use crate::format::float16::read_f16;
use crate::parallel;
use crate::simd::LANES;
use crate::simd::integers::Quads;

/// Panels that a thread packs at a time.
const PACKED_PANELS: usize = 8;

/// A matrix (rows, columns) of weights, in **panels** of 16 rows.
///
/// A panel holds its columns one after the other: of dense types, 16 numbers for each; of others, for every 32 of them the
/// codes (see `codes`), as many vectors of 64 bytes as a code has bits. Scales lie apart, behind the codes of all panels:
/// for every 32 columns 16 f16 (and 16 more of minima), or, where files have blocks of 256, 16 f16 for such a block, followed by
/// the bytes of its scales, 16 for every 16 or 32 columns. Nothing is rounded on the way: numbers are those of the file.
#[derive(Debug)]
pub struct PackedMatrix {
    weight_type: WeightType,
    rows: usize,
    columns: usize,
    /// Codes of all panels, then scales.
    memory: Memory,
}

/// Why a matrix cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError<E> {
    /// Rows are no whole blocks, or there is nothing.
    #[error("a matrix of {rows} rows of {columns} weights cannot be in {}, whose blocks have {}", .weight_type.name(), .weight_type.block_len())]
    Shape {
        /// What it was to be in.
        weight_type: WeightType,
        /// How many there are.
        rows: usize,
        /// Weights of a row.
        columns: usize,
    },
    /// The bytes of some rows are not as many as they have.
    #[error("{found} bytes for {rows} rows of {expected} in all")]
    Bytes {
        /// How many rows were asked for.
        rows: usize,
        /// What they have.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The system has no memory for it.
    #[error("no memory for a matrix")]
    Memory(#[from] std::io::Error),
    /// Where rows come from.
    #[error(transparent)]
    Source(E),
}

impl PackedMatrix {
    /// Packs a matrix, on all threads: `bytes` gives some rows as GGUF stores them.
    ///
    /// # Errors
    /// If rows are no whole blocks of the type, `bytes` fails or gives another number of bytes, or there is no memory.
    pub fn pack<B: AsRef<[u8]>, E: Send + Sync>(
        weight_type: WeightType,
        rows: usize,
        columns: usize,
        bytes: impl Fn(Range<usize>) -> Result<B, E> + Sync,
    ) -> Result<Self, PackError<E>> {
        let shape_error = PackError::Shape { weight_type, rows, columns };
        if rows == 0 || columns == 0 || !columns.is_multiple_of(weight_type.block_len()) {
            return Err(shape_error);
        }
        let geometry = Geometry { weight_type, columns };
        let row_bytes = weight_type.row_bytes(columns);
        let panels = rows.div_ceil(LANES);
        let [codes_len, scales_len] = [geometry.panel_codes(), geometry.panel_scales()];
        let Some(len) = panels.checked_mul(codes_len + scales_len) else { return Err(shape_error) };
        let mut memory = Memory::new(len)?;
        let (codes, scales) = memory.bytes_mut().split_at_mut(panels * codes_len);
        let mut pieces: Vec<_> =
            codes.chunks_mut(PACKED_PANELS * codes_len).map(|codes| (codes, None)).collect();
        if scales_len > 0 {
            let scales = scales.chunks_mut(PACKED_PANELS * scales_len);
            pieces.iter_mut().zip(scales).for_each(|(piece, scales)| piece.1 = Some(scales));
        }
        let packed = parallel::map_mut(&mut pieces, |index, (codes, scales)| {
            let first = index * PACKED_PANELS * LANES;
            let range = first..rows.min(first + PACKED_PANELS * LANES);
            let count = range.len();
            let bytes = bytes(range).map_err(PackError::Source)?;
            let (bytes, expected) = (bytes.as_ref(), count * row_bytes);
            if bytes.len() != expected {
                return Err(PackError::Bytes { rows: count, expected, found: bytes.len() });
            }
            let scales = scales.as_deref_mut().unwrap_or_default();
            let panels = bytes.chunks(LANES * row_bytes).zip(codes.chunks_mut(codes_len));
            for (panel, (rows, codes)) in panels.enumerate() {
                geometry.pack_panel(rows, codes, &mut scales[panel * scales_len..][..scales_len]);
            }
            Ok(())
        });
        packed.into_iter().collect::<Result<(), _>>()?;
        Ok(Self { weight_type, rows, columns, memory })
    }

    /// Rows: what a product gives for each row of activations.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: what activations have in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What weights are stored in.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    /// The values of a row; `values`: as many as there are columns.
    ///
    /// # Panics
    /// If there is no such row, or `values` are of another number.
    pub fn row(&self, index: usize, values: &mut [f32]) {
        assert!(index < self.rows && values.len() == self.columns, "a row of the matrix");
        let (panel, lane) = (index / LANES, index % LANES);
        let codes = self.codes(panel);
        let Some(shape) = self.weight_type.shape() else {
            let numbers = codes.chunks(self.weight_type.block_bytes()).skip(lane).step_by(LANES);
            for (value, number) in values.iter_mut().zip(numbers) {
                self.weight_type.read(number, std::slice::from_mut(value));
            }
            return;
        };
        let scales = self.scales(panel);
        let packed = codes.as_chunks::<{ 4 * LANES }>().0;
        for (block, values) in values.chunks_mut(COLUMNS).enumerate() {
            let packed = &packed[block * shape.bits..][..shape.bits];
            for (column, value) in values.iter_mut().enumerate() {
                let code = f32::from(codes::code(shape.bits, packed, lane, column));
                let offset = shape.offset.map_or(0.0, |power| (1u32 << power) as f32);
                let [scale, minimum] =
                    scale_of(shape, scales, block, column / (COLUMNS / shape.groups), lane);
                *value = scale * (code - offset) - minimum;
            }
        }
    }

    /// How many panels there are.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Codes of a panel, or its numbers.
    pub(crate) fn codes(&self, panel: usize) -> &[u8] {
        let len = self.geometry().panel_codes();
        &self.memory.bytes()[panel * len..][..len]
    }

    /// Scales of a panel.
    pub(crate) fn scales(&self, panel: usize) -> &[u8] {
        let [codes, scales] = [self.geometry().panel_codes(), self.geometry().panel_scales()];
        &self.memory.bytes()[self.panels() * codes + panel * scales..][..scales]
    }

    fn geometry(&self) -> Geometry {
        Geometry { weight_type: self.weight_type, columns: self.columns }
    }
}

/// What a panel takes.
#[derive(Clone, Copy)]
struct Geometry {
    weight_type: WeightType,
    columns: usize,
}

impl Geometry {
    fn panel_codes(self) -> usize {
        match self.weight_type.shape() {
            None => self.columns * LANES * self.weight_type.block_bytes(),
            Some(shape) => self.columns / COLUMNS * shape.bits * size_of::<Quads>(),
        }
    }

    fn panel_scales(self) -> usize {
        self.weight_type.shape().map_or(0, |shape| self.columns / shape.block_len * block_scales(shape))
    }

    /// Packs at most 16 rows; what is written to is zero.
    fn pack_panel(self, rows: &[u8], codes: &mut [u8], scales: &mut [u8]) {
        let rows = rows.chunks(self.weight_type.row_bytes(self.columns));
        let Some(shape) = self.weight_type.shape() else {
            let size = self.weight_type.block_bytes();
            for (lane, row) in rows.enumerate() {
                let places = codes.chunks_mut(size).skip(lane).step_by(LANES);
                places.zip(row.chunks(size)).for_each(|(to, from)| to.copy_from_slice(from));
            }
            return;
        };
        let rows: Vec<&[u8]> = rows.collect();
        let packed = codes.as_chunks_mut::<{ 4 * LANES }>().0;
        let per_block = shape.block_len / COLUMNS;
        let mut block = Block::ZERO;
        let mut scratch = [[[0; 4 * LANES]; QUADS]; SUPER / COLUMNS];
        let size = self.weight_type.block_bytes();
        let file_blocks =
            packed.chunks_mut(per_block * shape.bits).zip(scales.chunks_mut(block_scales(shape)));
        for (index, (packed, scales)) in file_blocks.enumerate() {
            // Bytes go to their places at once.
            let is_packed = shape.bits == 8;
            let quads = if is_packed { &mut *packed } else { scratch.as_flattened_mut() };
            for (lane, row) in rows.iter().enumerate() {
                block.read(self.weight_type, &row[index * size..][..size]);
                for (quad, codes) in quads.iter_mut().zip(block.codes.as_chunks::<4>().0) {
                    quad.as_chunks_mut::<4>().0[lane] = *codes;
                }
                store_scales(shape, &block, lane, scales);
            }
            if !is_packed {
                for (quads, packed) in scratch.iter().zip(packed.chunks_mut(shape.bits)) {
                    codes::pack(shape.bits, quads, packed);
                }
            }
        }
    }
}

/// Bytes of 16 f16.
pub(crate) const HALVES: usize = F16_BYTES * LANES;

/// Bytes of a panel's scales for a block as files store it.
const fn block_scales(shape: Shape) -> usize {
    let halves = HALVES * shape.kinds();
    if shape.is_super() { halves + shape.block_len / COLUMNS * small_scales(shape) } else { halves }
}

/// Bytes of the scales of 32 columns beside the f16 of 256.
const fn small_scales(shape: Shape) -> usize {
    LANES * shape.groups * shape.kinds()
}

/// Where a panel's f16 for 32 columns lie, and its bytes, in the scales of the panel.
#[inline(always)]
pub(crate) const fn scales_at(shape: Shape, block: usize) -> (usize, usize) {
    let per_block = shape.block_len / COLUMNS;
    let halves = block / per_block * block_scales(shape);
    (halves, halves + HALVES * shape.kinds() + block % per_block * small_scales(shape))
}

/// Where the bytes of a kind and group lie in those that [`scales_at`] gives.
#[inline(always)]
pub(crate) const fn small_scales_at(shape: Shape, kind: usize, group: usize) -> usize {
    (kind * shape.groups + group) * LANES
}

/// Writes the scales of a row of the panel.
fn store_scales(shape: Shape, block: &Block, lane: usize, scales: &mut [u8]) {
    for (kind, half) in [block.scale, block.minimum].into_iter().enumerate().take(shape.kinds()) {
        scales[kind * HALVES + F16_BYTES * lane..][..F16_BYTES].copy_from_slice(&half.to_le_bytes());
    }
    if shape.is_super() {
        for (index, (scale, minimum)) in block.scales.iter().zip(block.minima).enumerate() {
            let (columns, group) = (index / shape.groups, index % shape.groups);
            if columns == shape.block_len / COLUMNS {
                break;
            }
            let (_, small) = scales_at(shape, columns);
            for (kind, byte) in [*scale, minimum].into_iter().enumerate().take(shape.kinds()) {
                scales[small + small_scales_at(shape, kind, group) + lane] = byte.cast_unsigned();
            }
        }
    }
}

/// Scale and minimum of a row of the panel in a group of 32 columns.
fn scale_of(shape: Shape, scales: &[u8], block: usize, group: usize, lane: usize) -> [f32; 2] {
    let (halves, small) = scales_at(shape, block);
    let mut found = [0.0; 2];
    for (kind, found) in found.iter_mut().enumerate().take(shape.kinds()) {
        *found = read_f16(&scales[halves + kind * HALVES..], lane);
        if shape.is_super() {
            let byte = scales[small + small_scales_at(shape, kind, group) + lane];
            *found *= f32::from(byte.cast_signed());
        }
    }
    found
}

/// Zeros at the beginning, of their own pages: large ones where the system has them, since all of a matrix is read for every
/// token, and looking up small pages takes time.
#[derive(Debug)]
struct Memory(MmapMut);

impl Memory {
    fn new(len: usize) -> std::io::Result<Self> {
        let memory = MmapMut::map_anon(len)?;
        #[cfg(target_os = "linux")]
        // A wish: kernels may be built without.
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self(memory))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
