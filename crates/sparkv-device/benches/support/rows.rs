//! Rows in a GPU's memory, in every storage of the cache.
//!
//! A few random rows are written by the kernels themselves, and copied as often as there are to be rows: time does not depend on
//! values.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{LINE, Units};
use sparkv_device::{Device, KeyDomain, Memory, Places, RowPlace, Tables, append, move_lines, quantize};
use sparkv_kernels::{
    BLOCK, Fill, Format, GROUP, KeptFormat, Layout, LayoutError, Packing, Side, Widths, half_step,
};

use super::{KV_HEADS, Result};

/// How rows are stored.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) name: &'static str,
    pub(crate) units: Units,
    pub(crate) keys: KeyDomain,
    pub(crate) values_rotated: bool,
}

/// Every storage that is compared, dense f16 first.
pub(crate) fn storages(head_dim: usize) -> Result<Vec<Storage>> {
    let uniform = |bits| Widths::uniform(bits, head_dim).map_or(Format::Int8, Format::Planes);
    // Eighths of the channels with 6, 4 and 2 bits.
    let allotted = |eighths: [usize; 3]| {
        let channels = [6, 4, 2].into_iter().zip(eighths.map(|eighths| eighths * head_dim / 8));
        Widths::allotted(&channels.collect::<Vec<_>>()).map_or(Format::Int8, Format::Planes)
    };
    let packed = |fill| Format::Packed(Packing { kept: head_dim / 4, values: KeptFormat::Int8, fill });
    let pruned = [packed(Fill::RootMeanSquare), packed(Fill::MeanMagnitude)];
    [
        ("f16", [Format::F16; 2], KeyDomain::Plain),
        ("int8", [Format::Int8; 2], KeyDomain::Plain),
        ("int4", [uniform(4); 2], KeyDomain::Rotated),
        ("query 4, int4", [allotted([2, 4, 2]), uniform(4)], KeyDomain::Allotted),
        ("query 3, int3", [allotted([1, 3, 3]), uniform(3)], KeyDomain::Allotted),
        ("packed .75", pruned, KeyDomain::Scaled { centered: false }),
    ]
    .into_iter()
    .map(|(name, formats, keys)| {
        let values_rotated = matches!(formats[1], Format::Planes(_));
        Ok(Storage { name, units: units(head_dim, formats)?, keys, values_rotated })
    })
    .collect()
}

/// Dense f16 rows.
pub(crate) fn dense_units(head_dim: usize) -> Result<Units> {
    Ok(units(head_dim, [Format::F16; 2])?)
}

fn units(head_dim: usize, [keys, values]: [Format; 2]) -> std::result::Result<Units, LayoutError> {
    let layout = |side, format| Layout::new(side, head_dim, format);
    Ok(Units { keys: layout(Side::Keys, keys)?, values: layout(Side::Values, values)?, heads: KV_HEADS })
}

impl Storage {
    /// Bytes of `tokens` rows.
    pub(crate) fn bytes(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.units.rows()) * self.units.bytes()
    }

    /// Tables from `line` on.
    pub(crate) fn tables(&self, line: u32) -> Tables {
        Tables { line, keys: self.keys, values_rotated: self.values_rotated }
    }

    /// What [`Storage::tables`] says: no means, factors for channels that are all alike, channels in their order.
    pub(crate) fn table_bytes(&self) -> Vec<u8> {
        let head_dim = self.units.keys.head_dim();
        let numbers =
            |is_there: bool, value: f32| value.to_le_bytes().repeat(if is_there { head_dim } else { 0 });
        let (allotted, rotated) = (self.keys == KeyDomain::Allotted, self.keys == KeyDomain::Rotated);
        let mut head = numbers(rotated || allotted, 0.0);
        head.extend(numbers(matches!(self.keys, KeyDomain::Scaled { .. }), 1.0));
        let bits: Vec<u8> = match self.units.keys.format() {
            Format::Planes(widths) if allotted => (0..head_dim).map(|place| widths.bits_at(place)).collect(),
            _ => Vec::new(),
        };
        let factor = |bits: &u8| if *bits == 0 { 0.0 } else { half_step(*bits) };
        head.extend(bits.iter().flat_map(|bits| factor(bits).to_le_bytes()));
        head.extend(numbers(allotted, 1.0));
        head.extend(numbers(self.values_rotated, 0.0));
        let places = bits.iter().enumerate().map(|(place, bits)| place as u16 | u16::from(*bits) << 12);
        head.extend(places.flat_map(u16::to_le_bytes));
        head.repeat(KV_HEADS)
    }
}

/// Random numbers of a variance of 1, in a GPU's memory.
pub(crate) fn random(device: &Device, count: usize, seed: u64) -> Result<Memory> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // As uniform ones are between the roots of 3.
    let bytes: Vec<u8> = (0..count).flat_map(|_| rng.random_range(-1.732f32..1.732).to_le_bytes()).collect();
    let memory = device.allocate(bytes.len())?;
    device.upload(memory.view(), &bytes)?;
    Ok(memory)
}

/// Memory with tables and rows.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) memory: Memory,
    /// The first line of rows; tables are before it.
    pub(crate) rows: u32,
    /// The first line of some dense rows, of which others are made.
    seed: u32,
}

impl Pool {
    /// Lines before those of rows: tables of f32 at most four times, and places; and a block of dense rows.
    fn before(head_dim: usize) -> Result<[usize; 2]> {
        let tables = KV_HEADS * head_dim * (4 * size_of::<f32>() + size_of::<u16>());
        let seed = dense_units(head_dim)?.bytes() * BLOCK / GROUP;
        Ok([tables.div_ceil(LINE), seed.div_ceil(LINE)])
    }

    /// The first line of rows.
    pub(crate) fn first_row(head_dim: usize) -> Result<u32> {
        Ok(Self::before(head_dim)?.iter().sum::<usize>() as u32)
    }

    /// Room for `bytes` bytes of rows.
    ///
    /// # Errors
    /// If there is not as much memory.
    pub(crate) fn new(device: &Device, head_dim: usize, bytes: usize) -> Result<Self> {
        let [tables, seed] = Self::before(head_dim)?;
        let memory = device.allocate((tables + seed) * LINE + bytes)?;
        let units = dense_units(head_dim)?;
        let count = BLOCK * KV_HEADS * head_dim;
        let [keys, values] = [random(device, count, 1)?, random(device, count, 2)?];
        let first = tables as u32;
        let places = rows_from(first, 0..BLOCK);
        append(device, &units, memory.view(), [keys.view(), values.view()], &places)?;
        Ok(Self { memory, rows: (tables + seed) as u32, seed: first })
    }

    /// Writes tables and the first `bytes` bytes of rows, from the line `self.rows` on: the same block again and again.
    pub(crate) fn fill(&self, device: &Device, storage: &Storage, bytes: usize) -> Result<()> {
        let view = self.memory.view();
        let dense = dense_units(storage.units.keys.head_dim())?;
        let units = &storage.units;
        let block = BLOCK / units.rows() * units.bytes() / LINE;
        if units.is_dense() {
            move_lines(device, (view, self.seed), (view, self.rows), block as u32)?;
        } else {
            let tables = storage.table_bytes();
            device.upload(view.part(0, tables.len())?, &tables)?;
            let from = rows_from(self.seed, 0..BLOCK);
            let to = [RowPlace { line: self.rows, row: 0 }];
            quantize(device, [&dense, units], &storage.tables(0), view, Places::Same(&from), &to)?;
        }
        let (mut written, all) = (block, bytes / LINE);
        while written < all {
            let more = written.min(all - written);
            move_lines(device, (view, self.rows), (view, self.rows + written as u32), more as u32)?;
            written += more;
        }
        Ok(())
    }
}

/// Rows of a run.
pub(crate) fn rows_from(line: u32, rows: std::ops::Range<usize>) -> Vec<RowPlace> {
    rows.map(|row| RowPlace { line, row: row as u32 }).collect()
}
