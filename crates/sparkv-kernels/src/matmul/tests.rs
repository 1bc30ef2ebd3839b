use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::weight_type::COLUMNS;
use super::*;
use crate::elementwise;
use crate::simd::Isa;

/// Rows of a matrix as files store them: random bits, with scales that are numbers.
fn stored(of: WeightType, rows: usize, columns: usize, rng: &mut StdRng) -> Vec<u8> {
    let blocks = rows * columns / of.block_len();
    let mut bytes = Vec::new();
    let half = |rng: &mut StdRng| {
        let exponent = rng.random_range(-12..0);
        half::f16::from_f32(rng.random_range(-1.0..1.0f32) * (exponent as f32).exp2()).to_le_bytes()
    };
    for _ in 0..blocks {
        let mut block: Vec<u8> = (0..of.block_bytes()).map(|_| rng.random()).collect();
        match of {
            WeightType::F32 => block = rng.random_range(-1.0..1.0f32).to_le_bytes().to_vec(),
            WeightType::F16 => block = half(rng).to_vec(),
            WeightType::Bf16 => {
                block = half::bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes().to_vec();
            }
            WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => block[..2].copy_from_slice(&half(rng)),
            WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => {
                block[..2].copy_from_slice(&half(rng));
                block[2..4].copy_from_slice(&half(rng));
            }
            WeightType::Q2K => {
                block[80..82].copy_from_slice(&half(rng));
                block[82..].copy_from_slice(&half(rng));
            }
            WeightType::Q3K | WeightType::Q6K => {
                let end = block.len() - 2;
                block[end..].copy_from_slice(&half(rng));
            }
        }
        bytes.extend(block);
    }
    bytes
}

fn random_matrix(of: WeightType, rows: usize, columns: usize, rng: &mut StdRng) -> PackedMatrix {
    pack(of, rows, columns, &stored(of, rows, columns, rng))
}

fn pack(of: WeightType, rows: usize, columns: usize, bytes: &[u8]) -> PackedMatrix {
    let row = of.row_bytes(columns);
    let slice = |range: std::ops::Range<usize>| Ok::<_, ()>(&bytes[range.start * row..range.end * row]);
    PackedMatrix::pack(of, rows, columns, slice).unwrap()
}

#[test]
fn rows_come_back_as_they_were_stored() {
    let mut rng = StdRng::seed_from_u64(5);
    for of in WeightType::ALL {
        let bytes = stored(of, 37, 512, &mut rng);
        let matrix = pack(of, 37, 512, &bytes);
        let mut values = vec![0.0; 37 * 512];
        of.read(&bytes, &mut values);
        let mut row = vec![0.0; 512];
        for (index, expected) in values.chunks(512).enumerate() {
            matrix.row(index, &mut row);
            assert_eq!(row, expected, "{of:?}");
        }
    }
}

/// Activations with what is hard about them.
fn activations(rows: usize, columns: usize, rng: &mut StdRng) -> Vec<f32> {
    let mut values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
    for _ in 0..rows {
        let at = rng.random_range(0..values.len());
        values[at] = rng.random_range(-1e4..1e4);
        let block = at / COLUMNS * COLUMNS;
        let end = values.len().min(block + COLUMNS);
        match rng.random_range(0..5) {
            0 => values[block..end].fill(0.0),
            1 => values[block..end].iter_mut().for_each(|value| *value *= 1e-42),
            2 => values[block..end].iter_mut().for_each(|value| *value *= 1e-28),
            _ => {}
        }
    }
    values
}

/// 32 activations as they are rounded.
fn rounded(values: &[f32]) -> Vec<f64> {
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    if largest < 1e-30 {
        return vec![0.0; values.len()];
    }
    let scale = largest / 127.0;
    values
        .iter()
        .map(|value| f64::from((value * (127.0 / largest)).round_ties_even()) * f64::from(scale))
        .collect()
}

/// Products in f64, and what magnitudes they are sums of.
fn expected(matrix: &PackedMatrix, x: &[f32]) -> Vec<(f64, f64)> {
    let columns = matrix.columns();
    let weights: Vec<Vec<f32>> = (0..matrix.rows())
        .map(|row| {
            let mut values = vec![0.0; columns];
            matrix.row(row, &mut values);
            values
        })
        .collect();
    let mut results = Vec::new();
    for x in x.chunks(columns) {
        let x: Vec<f64> = if matrix.weight_type().is_dense() {
            x.iter().map(|x| f64::from(*x)).collect()
        } else {
            x.chunks(COLUMNS).flat_map(rounded).collect()
        };
        for weights in &weights {
            let terms = || weights.iter().zip(&x).map(|(weight, x)| f64::from(*weight) * x);
            results.push((terms().sum(), terms().map(f64::abs).sum()));
        }
    }
    results
}

fn product(isa: Isa, matrix: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let mut results = vec![f32::NAN; x.len() / matrix.columns() * matrix.rows()];
    let output = Output { layer: Affine { matrix, bias: None }, results: &mut results, add: false };
    multiply(isa, Input { values: x, norm: None }, &mut [output]).unwrap();
    results
}

/// How far sums in f32 may be off, of the magnitudes they are sums of: terms of whole numbers with offsets included.
const ROUNDING: f64 = 2e-5;

fn assert_close(found: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, (exact, magnitude))) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - exact).abs();
        assert!(
            off <= ROUNDING * magnitude + 1e-30,
            "{what}: {index}: {found} is not {exact} of {magnitude}"
        );
    }
}

fn columns_of(of: WeightType, units: usize, rng: &mut StdRng) -> usize {
    match of.block_len() {
        1 => 7 * units + rng.random_range(0..7),
        block => block * units,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_those_in_f64_whatever_the_instructions_and_the_batch(
        seed: u64, rows in 1usize..70, units in 1usize..4, count in 1usize..40,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        for of in WeightType::ALL {
            let columns = columns_of(of, units, &mut rng);
            let matrix = random_matrix(of, rows, columns, &mut rng);
            let x = activations(count, columns, &mut rng);
            let expected = expected(&matrix, &x);
            for isa in Isa::available() {
                let together = product(isa, &matrix, &x);
                assert_close(&together, &expected, &format!("{of:?} {} {rows}x{columns}", isa.name()));
                // A row alone, and the first few.
                let row = rng.random_range(0..count);
                let alone = product(isa, &matrix, &x[row * columns..][..columns]);
                assert_eq!(alone, together[row * rows..][..rows], "{of:?} {}: row {row} of {count}", isa.name());
                let few = rng.random_range(1..=count);
                let first = product(isa, &matrix, &x[..few * columns]);
                assert_eq!(first, together[..few * rows], "{of:?} {}: {few} of {count}", isa.name());
            }
        }
    }

    #[test]
    fn a_gated_product_is_its_parts(
        seed: u64, columns in 1usize..4, inner in 1usize..90, count in 1usize..20, dense in any::<[bool; 3]>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let columns = 32 * columns;
        // Codes want whole blocks.
        let inner = if dense[2] { inner } else { inner.div_ceil(32) * 32 };
        let of = |dense: bool| if dense { WeightType::F16 } else { WeightType::Q5_1 };
        let gate = random_matrix(of(dense[0]), inner, columns, &mut rng);
        let up = random_matrix(of(dense[1]), inner, columns, &mut rng);
        let down = random_matrix(of(dense[2]), columns, inner, &mut rng);
        let x = activations(count, columns, &mut rng);
        let mut vector = |len: usize| (0..len).map(|_| rng.random_range(0.5..2.0)).collect::<Vec<f32>>();
        let (weight, bias, down_bias) = (vector(columns), vector(inner), vector(columns));
        let mut normed = vec![0.0; x.len()];
        elementwise::rms_norm(&x, &weight, 1e-5, &mut normed);
        for isa in Isa::available() {
            let mut activated = product(isa, &gate, &normed);
            activated.chunks_mut(inner).for_each(|row| elementwise::add(row, &bias));
            elementwise::silu_times(&mut activated, &product(isa, &up, &normed));
            let mut products = product(isa, &down, &activated);
            products.chunks_mut(columns).for_each(|row| elementwise::add(row, &down_bias));
            let expected: Vec<f32> = x.iter().zip(products).map(|(x, product)| x + product).collect();
            let mut rows = x.clone();
            let mlp = Gated {
                gate: Affine { matrix: &gate, bias: Some(&bias) },
                up: Affine { matrix: &up, bias: None },
                down: Affine { matrix: &down, bias: Some(&down_bias) },
            };
            add_gated(isa, &mut rows, Some((&weight, 1e-5)), &mlp).unwrap();
            assert_eq!(rows, expected, "{}", isa.name());
        }
    }
}

#[test]
fn several_matrices_share_rows_and_have_biases() {
    let mut rng = StdRng::seed_from_u64(1);
    let matrices =
        [WeightType::Q4_0, WeightType::F16, WeightType::Q6K].map(|of| random_matrix(of, 50, 256, &mut rng));
    let x = activations(19, 256, &mut rng);
    let bias: Vec<f32> = (0..50).map(|index| index as f32).collect();
    for isa in Isa::available() {
        let alone = matrices.each_ref().map(|matrix| product(isa, matrix, &x));
        let mut results = [(); 3].map(|()| vec![1.0; 19 * 50]);
        let mut outputs: Vec<_> = matrices
            .iter()
            .zip(&mut results)
            .enumerate()
            .map(|(index, (matrix, results))| Output {
                layer: Affine { matrix, bias: (index == 1).then_some(&bias[..]) },
                results,
                add: index == 2,
            })
            .collect();
        multiply(isa, Input { values: &x, norm: None }, &mut outputs).unwrap();
        assert_eq!(results[0], alone[0]);
        for (index, (result, alone)) in results[1].iter().zip(&alone[1]).enumerate() {
            assert_eq!(*result, alone + bias[index % 50]);
        }
        results[2].iter().zip(&alone[2]).for_each(|(result, alone)| assert_eq!(*result, 1.0 + alone));
    }
}

#[test]
fn what_is_no_number_stays_in_its_row() {
    let mut rng = StdRng::seed_from_u64(2);
    for of in WeightType::ALL {
        let matrix = random_matrix(of, 20, 256, &mut rng);
        let x = activations(9, 256, &mut rng);
        for (isa, wrong) in
            Isa::available().into_iter().flat_map(|isa| [f32::NAN, f32::INFINITY].map(|x| (isa, x)))
        {
            let expected = product(isa, &matrix, &x);
            let mut broken = x.clone();
            broken[3 * 256 + 70] = wrong;
            let found = product(isa, &matrix, &broken);
            assert_eq!(found[..60], expected[..60]);
            assert_eq!(found[80..], expected[80..]);
            assert!(found[60..80].iter().all(|value| !value.is_finite()), "{of:?}: {:?}", &found[60..80]);
        }
    }
}

#[test]
fn every_type_takes_little_more_than_its_file() {
    for of in WeightType::ALL {
        let mut rng = StdRng::seed_from_u64(3);
        let bytes = stored(of, 64, 512, &mut rng);
        let held = pack(of, 64, 512, &bytes).bytes();
        let ratio = held as f64 / bytes.len() as f64;
        println!("{of:?}: {ratio:.3}");
        assert!((0.99..=1.25).contains(&ratio), "{of:?}: {ratio}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut rng = StdRng::seed_from_u64(4);
    let bytes = stored(WeightType::Q8_0, 4, 64, &mut rng);
    let pack = |columns: usize, len: usize| {
        PackedMatrix::pack(WeightType::Q8_0, 4, columns, |_| Ok::<_, std::fmt::Error>(&bytes[..len]))
    };
    assert!(matches!(pack(64, 100), Err(PackError::Bytes { rows: 4, expected: 272, found: 100 })));
    assert!(matches!(pack(40, 272), Err(PackError::Shape { .. })));
    assert!(matches!(pack(0, 0), Err(PackError::Shape { .. })));
    let failing = PackedMatrix::pack(WeightType::Q8_0, 4, 64, |_| Err::<Vec<u8>, _>(std::fmt::Error));
    assert!(matches!(failing, Err(PackError::Source(_))));
    let matrix = pack(64, 272).unwrap();
    let mut results = [0.0; 8];
    let multiply = |x: &[f32], results: usize, out: &mut [f32]| {
        let output = Output {
            layer: Affine { matrix: &matrix, bias: None },
            results: &mut out[..results],
            add: false,
        };
        super::multiply(Isa::best(), Input { values: x, norm: None }, &mut [output])
    };
    assert!(multiply(&[0.0; 128], 8, &mut results).is_ok());
    assert!(multiply(&[0.0; 128], 7, &mut results).is_err());
    assert!(multiply(&[0.0; 100], 4, &mut results).is_err());
    assert!(multiply(&[], 0, &mut results).is_ok());
}
