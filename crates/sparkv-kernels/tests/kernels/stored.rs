//! The bytes of stored rows: the same from version to version, and with every instruction set.

use sparkv_kernels::quantize::quantize_with;
use sparkv_kernels::{BLOCK, Fill, Format, Isa, KeptFormat, Layout, Packing, Side, Widths, dense};

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// [`BLOCK`] rows of `head_dim` channels each: of usual size, of every size that f32 has, of few sizes (so that many
/// are equal), of one size, and of zeros.
fn blocks(head_dim: usize) -> [Vec<f32>; 5] {
    let mut state = head_dim as u32;
    let mut next = move || {
        // The lower bits repeat soon.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let high = state >> 16;
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        high << 16 | state >> 16
    };
    let mut fill = |value: &dyn Fn(u32) -> f32| (0..BLOCK * head_dim).map(|_| value(next())).collect();
    let sign = |bits: u32| bits & 1 << 31;
    [
        fill(&|bits| bits.cast_signed() as f32 / 2f32.powi(29)),
        fill(&|bits| {
            let value = f32::from_bits(bits);
            if value.is_finite() { value } else { f32::from_bits(sign(bits) | 0x7f7f_ffff) }
        }),
        fill(&|bits| f32::from_bits(sign(bits) | 0x3f80_0000 | (bits & 3) << 8 | (bits >> 2 & 1))),
        fill(&|bits| f32::from_bits(sign(bits) | 0x3fc0_0000)),
        fill(&|bits| f32::from_bits(sign(bits))),
    ]
}

fn packed(kept: usize, values: KeptFormat, fill: Fill) -> Format {
    Format::Packed(Packing { kept, values, fill })
}

fn formats(head_dim: usize) -> Vec<(String, Format)> {
    let mut formats = vec![
        ("f32".to_owned(), Format::F32),
        ("f16".to_owned(), Format::F16),
        ("int8".to_owned(), Format::Int8),
    ];
    for bits in 2..=6 {
        let widths = Widths::uniform(bits, head_dim).unwrap();
        formats.push((format!("int{bits}"), Format::Planes(widths)));
    }
    for kept in [1, head_dim / 5, head_dim / 2, head_dim - 1] {
        for fill in [Fill::RootMeanSquare, Fill::MeanMagnitude] {
            formats.push((format!("packed f32 {kept} {fill:?}"), packed(kept, KeptFormat::F32, fill)));
            formats.push((format!("packed int8 {kept} {fill:?}"), packed(kept, KeptFormat::Int8, fill)));
        }
    }
    formats
}

/// The bytes of all blocks, one after the other.
fn store(isa: Isa, layout: &Layout) -> Vec<u8> {
    let mut all = Vec::new();
    for rows in blocks(layout.head_dim()) {
        let mut bytes = vec![0x5a; layout.bytes(BLOCK)];
        if layout.is_quantized() {
            quantize_with(isa, layout, &rows, &[], &mut bytes);
        } else {
            let rows = rows.chunks(layout.head_dim()).enumerate();
            rows.for_each(|(index, row)| dense::write_row(layout, row, &mut bytes, index));
        }
        all.extend(bytes);
    }
    all
}

/// Where rows are meant to be stored in other bytes, the table is what the failure prints.
#[test]
fn bytes_of_rows_are_those_on_record() {
    for isa in Isa::available() {
        let mut table = String::new();
        for head_dim in [8, 24, 64, 80, 128, 200, 256, 512] {
            for (name, format) in formats(head_dim) {
                let hashes = [Side::Keys, Side::Values].map(|side| {
                    let layout = Layout::new(side, head_dim, format).unwrap();
                    hash(&store(isa, &layout))
                });
                table += &format!("{head_dim} {name}: {:016x} {:016x}\n", hashes[0], hashes[1]);
            }
        }
        assert!(table == include_str!("stored.txt"), "{}:\n{table}", isa.name());
    }
}
