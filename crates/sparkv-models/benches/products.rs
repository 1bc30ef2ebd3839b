//! Products with matrices of weights beside Candle's, a copy of memory and a loop of products that lies in the cache:
//! microseconds, and what that is of weights read and of products computed in a second.
//!
//! All take turns, round by round, so that ratios hold on a noisy machine; medians are printed, as JSON.
//! `cargo bench -p sparkv-models --bench products -- [--rows 1,4,16,64,512] [--shapes 135M,1B,8B] [--types Q8_0,Q4K,...]
//! [--threads 2] [--rounds 9] [--isa scalar|avx2|avx512|neon|dotprod] [--no-candle]`

use std::error::Error;
use std::io::Write;
use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use sparkv_kernels::matmul::{Affine, Input, Output, PackedMatrix, WeightType, multiply};
use sparkv_kernels::{Isa, parallel};

/// The largest matrices of a layer, (results, columns): where the width doubles, and where it is taken back.
const SHAPES: [(&str, [[usize; 2]; 2]); 3] = [
    ("135M", [[1536, 576], [576, 1536]]),
    ("1B", [[8192, 2048], [2048, 8192]]),
    ("8B", [[14336, 4096], [4096, 14336]]),
];

/// Bytes of weights that are gone through at least before any comes again: more than caches hold.
const MEMORY: usize = 1 << 28;

/// A matrix (results, columns) that stays in the second cache, and how many rows it is multiplied with: what arithmetic reaches
/// where memory does not count.
const SMALL: [usize; 2] = [256, 512];
const SMALL_ROWS: usize = 256;

/// Seconds that a measurement takes at least.
const AT_LEAST: f64 = 0.02;

struct Options {
    rows: Vec<usize>,
    shapes: Vec<String>,
    types: Vec<String>,
    rounds: usize,
    isa: Isa,
    candle: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        rows: vec![1, 4, 16, 64, 512],
        shapes: SHAPES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        types: Vec::new(),
        rounds: 9,
        isa: Isa::best(),
        candle: true,
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        if arg == "--no-candle" {
            options.candle = false;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} wants a value"))?;
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match arg.as_str() {
            "--rows" => options.rows = list().iter().map(|rows| rows.parse()).collect::<Result<_, _>>()?,
            "--shapes" => options.shapes = list(),
            "--types" => options.types = list(),
            "--threads" => {
                let threads: NonZeroUsize = value.parse()?;
                parallel::set_threads(threads);
            }
            "--rounds" => options.rounds = value.parse()?,
            "--isa" => {
                let found = Isa::available().into_iter().find(|isa| isa.name() == value);
                options.isa = found.ok_or_else(|| format!("this processor has no {value}"))?;
            }
            _ => return Err(format!("unknown option {arg}").into()),
        }
    }
    Ok(options)
}

/// Numbers in [-1, 1).
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// Candle's name of a type.
fn ggml(of: WeightType) -> GgmlDType {
    match of {
        WeightType::F32 => GgmlDType::F32,
        WeightType::F16 => GgmlDType::F16,
        WeightType::Bf16 => GgmlDType::BF16,
        WeightType::Q8_0 => GgmlDType::Q8_0,
        WeightType::Q4_0 => GgmlDType::Q4_0,
        WeightType::Q4_1 => GgmlDType::Q4_1,
        WeightType::Q5_0 => GgmlDType::Q5_0,
        WeightType::Q5_1 => GgmlDType::Q5_1,
        WeightType::Q2K => GgmlDType::Q2K,
        WeightType::Q3K => GgmlDType::Q3K,
        WeightType::Q4K => GgmlDType::Q4K,
        WeightType::Q5K => GgmlDType::Q5K,
        WeightType::Q6K => GgmlDType::Q6K,
    }
}

/// One thing that is measured.
struct Case<'a> {
    run: Box<dyn FnMut() -> Result<(), Box<dyn Error>> + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Case<'a> {
    fn new(run: impl FnMut() -> Result<(), Box<dyn Error>> + 'a) -> Self {
        Self { run: Box::new(run), seconds: Vec::new() }
    }

    fn round(&mut self) -> Result<(), Box<dyn Error>> {
        let (start, mut times) = (Instant::now(), 0);
        while times == 0 || start.elapsed().as_secs_f64() < AT_LEAST {
            (self.run)()?;
            times += 1;
        }
        self.seconds.push(start.elapsed().as_secs_f64() / f64::from(times));
        Ok(())
    }

    fn median(&mut self) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A copy by all threads, and bytes read.
struct Copy {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Copy {
    fn new() -> Self {
        Self { from: vec![1; MEMORY], to: vec![0; MEMORY] }
    }

    /// Once over all of it.
    fn run(&mut self) {
        let threads = parallel::threads().get();
        let mut pieces: Vec<_> = self
            .to
            .chunks_mut(MEMORY.div_ceil(4 * threads))
            .zip(self.from.chunks(MEMORY.div_ceil(4 * threads)))
            .collect();
        parallel::for_each(&mut pieces, |_, (to, from)| to.copy_from_slice(from));
    }
}

/// The sum of all bytes by all threads: reading alone.
fn read(from: &[u8]) -> u64 {
    let threads = parallel::threads().get();
    let pieces: Vec<&[u8]> = from.chunks(MEMORY.div_ceil(4 * threads)).collect();
    let sums = parallel::map(pieces.len(), |piece| {
        let (words, _) = pieces[piece].as_chunks::<64>();
        let mut sums = [0u64; 8];
        for word in words {
            let (eights, _) = word.as_chunks::<8>();
            sums.iter_mut().zip(eights).for_each(|(sum, eight)| *sum ^= u64::from_le_bytes(*eight));
        }
        sums.into_iter().fold(0, |a, b| a ^ b)
    });
    sums.into_iter().fold(0, |a, b| a ^ b)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let mut out = std::io::stdout();
    let mut copy = Copy::new();
    let mut measured = Vec::new();
    for (name, shapes) in SHAPES.iter().filter(|(name, _)| options.shapes.iter().any(|shape| shape == name)) {
        for of in WeightType::ALL {
            if !options.types.is_empty() && !options.types.contains(&format!("{of:?}")) {
                continue;
            }
            for shape in shapes {
                for measurement in measure(&options, *shape, of, &mut copy)? {
                    let mut measurement = measurement;
                    measurement["shape"] = json!(name);
                    writeln!(std::io::stderr(), "{measurement}")?;
                    measured.push(measurement);
                }
            }
        }
    }
    let report = json!({
        "isa": options.isa.name(), "threads": parallel::threads(), "rounds": options.rounds, "products": measured,
    });
    writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// A type's products with a matrix of this shape.
fn measure(
    options: &Options,
    [results, columns]: [usize; 2],
    of: WeightType,
    copy: &mut Copy,
) -> Result<Vec<Value>, Box<dyn Error>> {
    if !columns.is_multiple_of(of.block_len()) {
        return Ok(Vec::new());
    }
    let weights = Tensor::from_vec(numbers(results * columns), (results, columns), &Device::Cpu)?;
    let blocks = QTensor::quantize(&weights, ggml(of))?;
    let bytes = blocks.data()?.into_owned();
    let row = bytes.len() / results;
    let pack = || {
        PackedMatrix::pack(of, results, columns, |rows| {
            Ok::<_, std::fmt::Error>(&bytes[rows.start * row..rows.end * row])
        })
    };
    // Several of them, so that none is in the cache when its turn comes.
    let several = MEMORY.div_ceil(bytes.len()).clamp(1, 64);
    let matrices = (0..several).map(|_| pack()).collect::<Result<Vec<_>, _>>()?;
    let candles = if options.candle {
        let again = || QTensor::quantize(&weights, ggml(of));
        // Candle holds two copies of some.
        (0..several.div_ceil(2)).map(|_| again()).collect::<Result<Vec<_>, _>>()?
    } else {
        Vec::new()
    };
    // What stays in the second cache, with its rows.
    let small = PackedMatrix::pack(of, SMALL[0], columns.min(SMALL[1]), |rows| {
        let row = columns.min(SMALL[1]) / of.block_len() * of.block_bytes();
        Ok::<_, std::fmt::Error>(&bytes[rows.start * row..rows.end * row])
    })?;
    let mut measured = Vec::new();
    for &rows in &options.rows {
        let x = numbers(rows * columns);
        let tensor = Tensor::from_slice(&x, (rows, columns), &Device::Cpu)?;
        let (mut y, mut next, mut next_candle) = (vec![0.0; rows * results], 0, 0);
        let (small_x, mut small_y) =
            (numbers(SMALL_ROWS * small.columns()), vec![0.0; SMALL_ROWS * SMALL[0]]);
        let mut cases = vec![
            Case::new(|| {
                next = (next + 1) % matrices.len();
                let output = Output {
                    layer: Affine { matrix: &matrices[next], bias: None },
                    results: &mut y,
                    add: false,
                };
                Ok(multiply(options.isa, Input { values: &x, norm: None }, &mut [output])?)
            }),
            Case::new(|| {
                let output = Output {
                    layer: Affine { matrix: &small, bias: None },
                    results: &mut small_y,
                    add: false,
                };
                Ok(multiply(options.isa, Input { values: &small_x, norm: None }, &mut [output])?)
            }),
        ];
        if rows == 1 {
            let from = copy.from.clone();
            cases.push(Case::new(move || {
                std::hint::black_box(read(&from));
                Ok(())
            }));
            cases.push(Case::new(|| {
                copy.run();
                Ok(())
            }));
        }
        if !candles.is_empty() {
            cases.push(Case::new(|| {
                next_candle = (next_candle + 1) % candles.len();
                if of.is_dense() {
                    let weights = candles[next_candle].dequantize(&Device::Cpu)?.to_dtype(DType::F32)?;
                    std::hint::black_box(tensor.matmul(&weights.t()?)?);
                } else {
                    std::hint::black_box(tensor.apply_op1_no_bwd(&candles[next_candle])?);
                }
                Ok(())
            }));
        }
        for _ in 0..options.rounds {
            cases.iter_mut().try_for_each(Case::round)?;
        }
        let seconds: Vec<f64> = cases.iter_mut().map(Case::median).collect();
        drop(cases);
        let operations = (2 * rows * results * columns) as f64;
        let held = matrices[0].bytes() as f64;
        let mut measurement = json!({
            "type": format!("{of:?}"), "results": results, "columns": columns, "rows": rows,
            "bytes_per_file_byte": held / bytes.len() as f64,
            "microseconds": seconds[0] * 1e6,
            "gigabytes_per_second": held / seconds[0] / 1e9,
            "gigaoperations_per_second": operations / seconds[0] / 1e9,
            "cached_gigaoperations_per_second":
                (2 * SMALL_ROWS * SMALL[0] * small.columns()) as f64 / seconds[1] / 1e9,
        });
        if rows == 1 {
            measurement["read_gigabytes_per_second"] = json!(MEMORY as f64 / seconds[2] / 1e9);
            measurement["copy_gigabytes_per_second"] = json!(2.0 * MEMORY as f64 / seconds[3] / 1e9);
        }
        if options.candle {
            measurement["times_candle"] = json!(seconds[seconds.len() - 1] / seconds[0]);
        }
        measured.push(measurement);
    }
    Ok(measured)
}
