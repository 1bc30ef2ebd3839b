use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use sparkv_kernels::matmul::WeightType;

use super::*;
use crate::weights::ggml_type;

fn numbers(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

fn matrix(rows: usize, columns: usize) -> Tensor {
    Tensor::from_vec(numbers(rows, columns), (rows, columns), &Device::Cpu).unwrap()
}

/// The matrix as a file stores it.
fn stored(of: WeightType, rows: usize, columns: usize) -> Stored<'static> {
    let bytes = match of {
        WeightType::F32 => numbers(rows, columns).iter().flat_map(|value| value.to_le_bytes()).collect(),
        of => QTensor::quantize(&matrix(rows, columns), ggml_type(of)).unwrap().data().unwrap().into_owned(),
    };
    Stored { weight_type: of, shape: vec![rows, columns], bytes: bytes.into(), file: None }
}

fn linear(products: Products, stored: &Stored<'_>, format: MatrixFormat) -> Linear {
    match products {
        Products::Packed => Linear::Packed(Packed::new(stored, format, None).unwrap()),
        Products::Plain => Linear::Plain(Plain::new(stored, format, None, &Device::Cpu).unwrap()),
    }
}

fn norm(columns: usize) -> Norm {
    Norm { weight: Tensor::ones(columns, candle_core::DType::F32, &Device::Cpu).unwrap(), eps: 1e-5 }
}

fn product(linear: &Linear, x: &Tensor) -> Tensor {
    let [y] = Linear::of_normed([linear], x, &norm(x.dim(1).unwrap()), &crate::ops::cpu::Cpu).unwrap();
    y
}

fn largest(t: &Tensor) -> f32 {
    t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
}

/// Largest absolute difference from the f32 product, relative to the largest absolute value of that.
fn error_of(format: MatrixFormat, columns: usize) -> f32 {
    let x = matrix(5, columns);
    let stored = stored(WeightType::F32, 150, columns);
    let exact = product(&linear(Products::Plain, &stored, MatrixFormat::Dense(WeightType::F32)), &x);
    largest(&(product(&linear(Products::Packed, &stored, format), &x) - &exact).unwrap()) / largest(&exact)
}

const Q8_0: MatrixFormat = MatrixFormat::Quantized(WeightType::Q8_0);
const Q4K: MatrixFormat = MatrixFormat::Quantized(WeightType::Q4K);

#[test]
fn every_format_is_as_exact_as_its_bits() {
    assert!(error_of(MatrixFormat::Dense(WeightType::F32), 256) < 1e-6);
    assert_eq!(error_of(MatrixFormat::Auto, 256), error_of(Q8_0, 256));
    let expected = [
        (MatrixFormat::Dense(WeightType::F16), 1e-3),
        (MatrixFormat::Dense(WeightType::Bf16), 4e-3),
        (Q8_0, 1e-2),
        (Q4K, 1e-1),
    ];
    for (format, bound) in expected {
        let error = error_of(format, 256);
        assert!(error > 0.0 && error < bound, "{format:?}: {error}");
    }
}

#[test]
fn rows_that_do_not_fill_blocks_fall_back() {
    assert_eq!(error_of(Q4K, 64), error_of(Q8_0, 64));
    assert!(error_of(Q8_0, 64) > 0.0);
    for format in [Q4K, Q8_0, MatrixFormat::Auto] {
        assert!(error_of(format, 172) < 1e-6);
    }
}

/// Candle reads blocks as GGUF defines them.
#[test]
fn every_type_is_read_as_candle_reads_it() {
    for of in WeightType::ALL {
        let stored = stored(of, 40, 512);
        let blocks = QTensor::quantize(&matrix(40, 512), ggml_type(of)).unwrap();
        let expected = blocks.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let packed = linear(Products::Packed, &stored, MatrixFormat::as_stored(of));
        let indices = [3, 39, 0, 3];
        let rows = packed.rows(&indices).unwrap().to_vec2::<f32>().unwrap();
        for (index, row) in indices.into_iter().zip(rows) {
            assert_eq!(row, expected[index as usize], "{of:?}");
        }
        assert!(packed.rows(&[40]).is_err());
    }
}

/// Candle rounds activations in its own ways; these have one value in each of its blocks, which they keep.
#[test]
fn products_of_every_type_are_candles() {
    for of in WeightType::ALL {
        let (stored, x) = (stored(of, 50, 512), matrix(9, 512));
        let [packed, plain] = [Products::Packed, Products::Plain]
            .map(|products| product(&linear(products, &stored, MatrixFormat::as_stored(of)), &x));
        let off = largest(&(&packed - &plain).unwrap()) / largest(&plain);
        assert!(off < if of.is_dense() { 1e-6 } else { 2e-2 }, "{of:?}: {off}");
    }
}

#[test]
fn what_is_added_is_the_same() {
    let (x, ops) = (matrix(3, 256), &crate::ops::cpu::Cpu);
    for of in [WeightType::F32, WeightType::Q8_0, WeightType::Q4K] {
        let [a, b] = [32, 50]
            .map(|rows| linear(Products::Packed, &stored(of, rows, 256), MatrixFormat::as_stored(of)));
        let together = Linear::of_normed([&a, &b], &x, &norm(256), ops).unwrap();
        for (layer, y) in [&a, &b].into_iter().zip(together) {
            assert_eq!(y.to_vec2::<f32>().unwrap(), product(layer, &x).to_vec2::<f32>().unwrap());
            let normed = norm(256).apply(&x, ops).unwrap();
            let sums = Tensor::ones(y.shape(), candle_core::DType::F32, &Device::Cpu).unwrap();
            layer.add_to(&sums, &normed, ops).unwrap();
            assert_eq!(sums.to_vec2::<f32>().unwrap(), (y + 1.0).unwrap().to_vec2::<f32>().unwrap());
        }
        // Rows that do not fit.
        assert!(a.add_to(&matrix(3, 31), &x, ops).is_err());
    }
}
