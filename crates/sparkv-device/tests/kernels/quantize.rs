use rand::seq::{IndexedRandom, index};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::{LINE, Units};
use sparkv_device::{Device, KeyDomain, Memory, Places, RowPlace, Tables, View, append, quantize};
use sparkv_kernels::{BLOCK, Fill, Format, KeptFormat, Layout, Packing, SET, Side, Widths, dense};

use crate::domain::Domain;
use crate::support::{bytes_of, dense_row, dense_units, device, lines, scattered, values};

/// Kinds of rows that [`rows_of`] has.
const KINDS: usize = 8;

/// Rows (rows, row) of some kind.
fn rows_of(rng: &mut ChaCha8Rng, kind: usize, rows: usize, row: usize) -> Vec<f32> {
    let mut all = values(rng, rows * row);
    let (offset, factor) = match kind {
        1 => (50.0, 1.0),
        2 => (0.0, 1e-7),
        3 => (0.0, 1e-39),
        4 => (1.0, 0.0),
        5 => (0.0, 0.0),
        6 => (0.0, 1e15),
        _ => (0.0, 1.0),
    };
    all.iter_mut().for_each(|value| *value = *value * factor + offset);
    if kind == 7 {
        // One channel that is much larger than the others, and rows of zeros between them.
        all.chunks_exact_mut(row).for_each(|values| values[3] = 60_000.0);
        all.chunks_exact_mut(2 * row).for_each(|values| values[..row].fill(-0.0));
    }
    all
}

/// Rows to be quantized, and memory that has room for blocks and tables.
struct Case {
    device: Device,
    dense: Units,
    blocks: Units,
    tables: Tables,
    domains: Vec<Domain>,
    pool: Memory,
    sources: Vec<RowPlace>,
    to: Vec<RowPlace>,
}

impl Case {
    /// In domains that are drawn, where they say something: keys may have bits of their own, `pairs` pairs of them.
    fn new(
        rng: &mut ChaCha8Rng,
        device: &Device,
        [dense, mut blocks]: [Units; 2],
        keys: KeyDomain,
        [kind, pairs]: [usize; 2],
    ) -> Self {
        let (heads, head_dim) = (dense.heads, dense.keys.head_dim());
        let sources = scattered(&dense, 1, &[50, 16, 9]);
        let end = sources.iter().map(|place| place.line).max().unwrap() + lines(&dense, 16);
        let tables = Tables { line: end + 1, keys, values_rotated: rng.random() };
        let domains: Vec<Domain> =
            (0..heads).map(|_| Domain::random(rng, &tables, head_dim, pairs)).collect();
        blocks.keys = domains[0].layout(blocks.keys);
        let table_bytes: Vec<u8> = domains.iter().flat_map(Domain::bytes).collect();
        assert_eq!(table_bytes.len(), heads * tables.head_bytes(head_dim));
        let end = tables.line + table_bytes.len().div_ceil(LINE) as u32 + 1;
        let to: Vec<RowPlace> = scattered(&blocks, end, &[64, 32]).into_iter().step_by(BLOCK).collect();
        let end = end + lines(&blocks, 64) + lines(&blocks, 32) + 4;
        let pool = device.allocate(end as usize * LINE).unwrap();
        device.upload(pool.view(), &vec![0xa5; pool.bytes()]).unwrap();
        let tables_at = tables.line as usize * LINE;
        device.upload(pool.view().part(tables_at, table_bytes.len()).unwrap(), &table_bytes).unwrap();
        let [keys, vals] = [0; 2].map(|_| rows_of(rng, kind, sources.len(), heads * head_dim));
        append(device, &dense, pool.view(), [View::of_host(&keys), View::of_host(&vals)], &sources).unwrap();
        Self { device: device.clone(), dense, blocks, tables, domains, pool, sources, to }
    }

    /// What the CPU makes of the rows `from` of a head.
    fn block(&self, before: &[u8], from: &[RowPlace], head: usize, side: Side, bytes: &mut [u8]) {
        let layout = if side == Side::Keys { self.blocks.keys } else { self.blocks.values };
        let domain = &self.domains[head];
        let rows: Vec<f32> = from
            .iter()
            .flat_map(|place| {
                let mut row = dense_row(&self.dense, before, *place, head, side);
                domain.apply(side, &mut row);
                row
            })
            .collect();
        if !layout.is_quantized() {
            for (index, row) in rows.chunks_exact(layout.head_dim()).enumerate() {
                dense::write_row(&layout, row, bytes, index);
            }
            return;
        }
        let weights = if side == Side::Keys { &domain.key_weights[..] } else { &[] };
        sparkv_kernels::quantize(&domain.layout(layout), &rows, weights, bytes);
    }

    /// Quantizes rows, the same of all heads or not, and compares with the CPU's.
    fn check(&self, rng: &mut ChaCha8Rng, blocks: usize) {
        let Self { device, dense, blocks: units, tables, pool, sources, .. } = self;
        let mut draw = || -> Vec<RowPlace> {
            index::sample(rng, sources.len(), blocks * BLOCK).iter().map(|index| sources[index]).collect()
        };
        let lists: Vec<Vec<RowPlace>> = (0..dense.heads).map(|_| draw()).collect();
        let same = blocks == 1;
        let from = if same { Places::Same(&lists[0]) } else { Places::PerHead(&lists) };
        let before = bytes_of(device, pool);
        quantize(device, [dense, units], tables, pool.view(), from, &self.to[..blocks]).unwrap();
        let mut expected = before.clone();
        for head in 0..dense.heads {
            let list = if same { &lists[0] } else { &lists[head] };
            for (from, to) in list.chunks_exact(BLOCK).zip(&self.to) {
                for side in [Side::Keys, Side::Values] {
                    let at = units.address(to.line, to.row as usize / BLOCK, head, side);
                    self.block(&before, from, head, side, &mut expected[at..at + units.side_bytes(side)]);
                }
            }
        }
        let found = bytes_of(device, pool);
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{dense:?}, {units:?}, {tables:?}, blocks at {:?}", self.to);
    }
}

fn planes(bits: u8, head_dim: usize) -> Format {
    Format::Planes(Widths::uniform(bits, head_dim).unwrap())
}

fn units(head_dim: usize, heads: usize, [keys, values]: [Format; 2]) -> Units {
    let layout = |side, format| Layout::new(side, head_dim, format).unwrap();
    Units { keys: layout(Side::Keys, keys), values: layout(Side::Values, values), heads }
}

/// Formats of blocks, with domains of keys that may go with them.
fn formats(head_dim: usize) -> Vec<(Format, Vec<KeyDomain>)> {
    let scaled = [false, true].map(|centered| KeyDomain::Scaled { centered });
    let any = [&[KeyDomain::Plain, KeyDomain::Rotated][..], &scaled].concat();
    let mut formats =
        vec![(Format::Int8, any.clone()), (Format::F16, any.clone()), (Format::F32, any.clone())];
    formats.extend((2..=6).map(|bits| (planes(bits, head_dim), any.clone())));
    for fill in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
        for kept in [1, head_dim / 5 + 1, head_dim - 1] {
            formats.push((Format::Packed(Packing { kept, values: KeptFormat::Int8, fill }), any.clone()));
        }
    }
    // Of as many bits on average as these, whatever they are.
    formats.extend((2..=6).map(|bits| (planes(bits, head_dim), vec![KeyDomain::Allotted])));
    formats
}

#[test]
fn bytes_are_those_of_the_cpu() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (case, head_dim) in [8, 40, 64, 80, 128].repeat(2).into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        let values: Vec<Format> = formats(head_dim)
            .into_iter()
            .filter(|(_, keys)| keys.len() > 1)
            .map(|(format, _)| format)
            .collect();
        for (keys, domains) in formats(head_dim) {
            let values = *values.choose(&mut rng).unwrap();
            let is_dense = |format| matches!(format, Format::F16 | Format::F32);
            if is_dense(keys) && is_dense(values) {
                continue;
            }
            let heads = rng.random_range(1..=3);
            let dense = dense_units(head_dim, heads, if rng.random() { Format::F16 } else { Format::F32 });
            let blocks = units(head_dim, heads, [keys, values]);
            let domain = *domains.choose(&mut rng).unwrap();
            let pairs = match keys {
                Format::Planes(widths) => {
                    (usize::from(widths.of_all(head_dim).unwrap()) * (head_dim / SET) / 2).max(1)
                }
                _ => 0,
            };
            let kind = rng.random_range(0..KINDS);
            let case = Case::new(&mut rng, &device, [dense, blocks], domain, [kind, pairs]);
            let blocks = rng.random_range(1..=2);
            case.check(&mut rng, blocks);
        }
    }
}

/// Rows so near to a border between two scales of 16 bits that a last bit of what comes before decides: there, another order
/// of sums is seen.
fn rows_on_the_border(rng: &mut ChaCha8Rng, layout: &Layout, weights: &[f32]) -> Vec<f32> {
    let head_dim = layout.head_dim();
    let scales = |rows: &[f32], factor: f32| {
        let rows: Vec<f32> = rows.iter().map(|value| value * factor).collect();
        let mut bytes = vec![0; layout.unit_bytes()];
        sparkv_kernels::quantize(layout, &rows, weights, &mut bytes);
        let steps = if matches!(layout.format(), Format::Packed(_)) { BLOCK } else { 0 };
        let end = bytes.len() - steps;
        bytes[end - 2 * BLOCK..end].as_chunks::<2>().0.to_vec()
    };
    let mut found = Vec::new();
    while found.len() < BLOCK * head_dim {
        let rows: Vec<f32> = (0..BLOCK * head_dim).map(|_| rng.random_range(-2.0..2.0)).collect();
        let borders = scales(&rows, 1.0 - 2e-7).into_iter().zip(scales(&rows, 1.0 + 2e-7));
        for (row, _) in rows.chunks_exact(head_dim).zip(borders).filter(|(_, (below, above))| below != above)
        {
            found.extend(row);
        }
    }
    found.truncate(BLOCK * head_dim);
    found
}

#[test]
fn the_last_bit_of_a_sum_is_that_of_the_cpu() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let head_dim = 40;
    let packed = |fill| Format::Packed(Packing { kept: 9, values: KeptFormat::Int8, fill });
    for (keys, values) in [
        (planes(4, head_dim), packed(Fill::MeanMagnitude)),
        (planes(2, head_dim), packed(Fill::RootMeanSquare)),
        (planes(6, head_dim), planes(3, head_dim)),
    ] {
        let Some(device) = device(0) else { return };
        let dense = dense_units(head_dim, 1, Format::F32);
        let blocks = units(head_dim, 1, [keys, values]);
        let weights: Vec<f32> = (0..head_dim).map(|_| rng.random_range(0.0..1.0)).collect();
        let Format::Planes(widths) = keys else { return };
        let domain = Domain::of_weights(weights.clone(), widths.of_all(head_dim).unwrap());
        let tables = Tables { line: 0, keys: KeyDomain::Allotted, values_rotated: false };
        let table = domain.bytes();
        let sources = scattered(&dense, table.len().div_ceil(LINE) as u32, &[BLOCK as u32]);
        let to = RowPlace { line: sources[0].line + lines(&dense, BLOCK), row: 0 };
        let end = (to.line + lines(&blocks, BLOCK)) as usize * LINE;
        let pool = device.allocate(end).unwrap();
        device.upload(pool.view(), &table).unwrap();
        let keys = rows_on_the_border(&mut rng, &blocks.keys, &weights);
        let vals = rows_on_the_border(&mut rng, &blocks.values, &[]);
        append(&device, &dense, pool.view(), [View::of_host(&keys), View::of_host(&vals)], &sources).unwrap();
        let [mut expected, mut expected_values] =
            [&blocks.keys, &blocks.values].map(|layout| vec![0; layout.unit_bytes()]);
        sparkv_kernels::quantize(&blocks.keys, &keys, &weights, &mut expected);
        sparkv_kernels::quantize(&blocks.values, &vals, &[], &mut expected_values);
        expected.extend(expected_values);
        quantize(&device, [&dense, &blocks], &tables, pool.view(), Places::Same(&sources), &[to]).unwrap();
        assert!(bytes_of(&device, &pool)[to.line as usize * LINE..] == expected, "{blocks:?}");
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let Some(device) = device(0) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let dense = dense_units(64, 2, Format::F16);
    let blocks = units(64, 2, [planes(4, 64), Format::Int8]);
    let case = Case::new(&mut rng, &device, [dense, blocks], KeyDomain::Rotated, [0, 0]);
    let rows = &case.sources[..BLOCK];
    let try_with = |blocks: &Units, tables: &Tables, rows: &[RowPlace], to: RowPlace| {
        let from = Places::Same(rows);
        quantize(&device, [&dense, blocks], tables, case.pool.view(), from, &[to]).map_err(|e| e.to_string())
    };
    let to = case.to[0];
    assert_eq!(try_with(&blocks, &case.tables, rows, to), Ok(()));
    let refused = |result: Result<(), String>, reason: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(reason), "{error}");
    };
    refused(try_with(&blocks, &case.tables, &rows[1..], to), "do not fill");
    refused(try_with(&blocks, &case.tables, rows, RowPlace { row: 8, ..to }), "within a block");
    refused(try_with(&blocks, &case.tables, rows, RowPlace { row: 320, ..to }), "not in a pool");
    refused(try_with(&blocks, &case.tables, rows, rows[0]), "are written");
    refused(try_with(&dense, &case.tables, rows, to), "neither");
    refused(try_with(&units(64, 1, [planes(4, 64), Format::Int8]), &case.tables, rows, to), "other heads");
    let far = Tables { line: u32::MAX, ..case.tables };
    refused(try_with(&blocks, &far, rows, to), "do not fit");
    let allotted = Tables { keys: KeyDomain::Allotted, ..case.tables };
    refused(try_with(&units(64, 2, [Format::Int8, Format::Int8]), &allotted, rows, to), "bits of keys");
    let packing = Packing { kept: 16, values: KeptFormat::F32, fill: Fill::MeanMagnitude };
    let packed = units(64, 2, [Format::Int8, Format::Packed(packing)]);
    refused(try_with(&packed, &case.tables, rows, to), "on the CPU only");
    let uneven = Format::Planes(Widths::allotted(&[(4, 32), (2, 32)]).unwrap());
    refused(try_with(&units(64, 2, [uneven, Format::Int8]), &case.tables, rows, to), "bits of keys");
}

/// A launch is safe whatever is in the pool: tables that were never settled lead nowhere else.
#[test]
fn tables_that_were_never_settled_reach_nothing_else() {
    let Some(device) = device(0) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let dense = dense_units(40, 2, Format::F16);
    let blocks = units(40, 2, [planes(3, 40), Format::Int8]);
    let case = Case::new(&mut rng, &device, [dense, blocks], KeyDomain::Allotted, [0, 7]);
    for seed in 0..4 {
        let bytes = 2 * case.tables.head_bytes(40);
        let tables: Vec<u8> = (0..bytes).map(|_| if seed == 0 { 0xff } else { rng.random() }).collect();
        let start = case.tables.line as usize * LINE;
        device.upload(case.pool.view().part(start, bytes).unwrap(), &tables).unwrap();
        let before = bytes_of(&device, &case.pool);
        let from = Places::Same(&case.sources[..BLOCK]);
        quantize(&device, [&dense, &case.blocks], &case.tables, case.pool.view(), from, &case.to[..1])
            .unwrap();
        let after = bytes_of(&device, &case.pool);
        let block = case.to[0].line as usize * LINE;
        let end = block + case.blocks.bytes();
        assert!(before[..block] == after[..block] && before[end..] == after[end..]);
    }
}
