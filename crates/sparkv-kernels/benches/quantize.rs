//! Quantizing, for each format and instruction set: time for a block of rows of 128 channels.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sparkv_kernels::quantize::quantize_with;
use sparkv_kernels::{BLOCK, Fill, Format, Isa, KeptFormat, Layout, Packing, Side, Widths};

const HEAD_DIM: usize = 128;

/// Blocks quantized in turn, so that branches cannot be learnt by heart.
const BLOCKS: usize = 64;

fn formats(side: Side) -> Vec<(String, Format)> {
    let fill = match side {
        Side::Keys => Fill::RootMeanSquare,
        Side::Values => Fill::MeanMagnitude,
    };
    let mut formats = vec![("int8".to_owned(), Format::Int8)];
    for bits in [3, 4] {
        let widths = Widths::uniform(bits, HEAD_DIM);
        formats.extend(widths.map(|widths| (format!("int{bits}"), Format::Planes(widths))));
    }
    for (ratio, name, values) in [
        (0.8, "packed-int8", KeptFormat::Int8),
        (0.5, "packed-int8-half", KeptFormat::Int8),
        (0.8, "packed-f32", KeptFormat::F32),
    ] {
        let packing = Packing::new(HEAD_DIM, ratio, values, fill);
        formats.extend(packing.map(|packing| (name.to_owned(), Format::Packed(packing))));
    }
    formats
}

/// Rows with the spread of real ones: sums of uniform values.
fn rows() -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(1);
    (0..BLOCKS * BLOCK * HEAD_DIM).map(|_| (0..4).map(|_| rng.random_range(-1f32..1.0)).sum()).collect()
}

fn quantize(criterion: &mut Criterion) {
    let rows = rows();
    let mut blocks = rows.chunks_exact(BLOCK * HEAD_DIM).cycle();
    for (side, side_name) in [(Side::Keys, "keys"), (Side::Values, "values")] {
        let mut group = criterion.benchmark_group(format!("quantize/{side_name}"));
        group.throughput(Throughput::Elements(BLOCK as u64));
        for (name, format) in formats(side) {
            let Ok(layout) = Layout::new(side, HEAD_DIM, format) else { continue };
            let mut bytes = vec![0; layout.unit_bytes()];
            for isa in Isa::available() {
                group.bench_function(format!("{name}/{}", isa.name()), |bencher| {
                    bencher.iter(|| {
                        if let Some(rows) = blocks.next() {
                            quantize_with(isa, &layout, black_box(rows), &[], black_box(&mut bytes));
                        }
                    });
                });
            }
        }
    }
}

criterion_group!(benches, quantize);
criterion_main!(benches);
