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

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use sparkv_kernels::matmul::{Affine, Input, Output, PackedMatrix, WeightType, multiply};
use sparkv_kernels::{Isa, parallel};
use sparkv_models::ggml_type;

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
            for shape in shapes.iter().filter(|[_, columns]| columns.is_multiple_of(of.block_len())) {
                let matrices = Matrices::new(of, *shape, options.candle)?;
                for &rows in &options.rows {
                    let mut measurement = matrices.measure(&options, rows, &mut copy)?;
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

/// Matrices of one type and shape, several of them, so that none is in the cache when its turn comes.
struct Matrices {
    of: WeightType,
    shape: [usize; 2],
    file_bytes: usize,
    ours: Vec<PackedMatrix>,
    /// Empty where Candle is not measured.
    candles: Vec<QTensor>,
    /// One that stays in the cache.
    small: PackedMatrix,
}

impl Matrices {
    fn new(of: WeightType, shape: [usize; 2], with_candle: bool) -> Result<Self, Box<dyn Error>> {
        let [results, columns] = shape;
        let weights = Tensor::from_vec(numbers(results * columns), (results, columns), &Device::Cpu)?;
        let blocks = || QTensor::quantize(&weights, ggml_type(of));
        let bytes = blocks()?.data()?.into_owned();
        let pack = |results: usize, columns: usize| {
            let row = of.row_bytes(columns);
            PackedMatrix::pack(of, results, columns, |rows| {
                Ok::<_, std::fmt::Error>(&bytes[rows.start * row..rows.end * row])
            })
        };
        let several = MEMORY.div_ceil(bytes.len()).clamp(1, 64);
        Ok(Self {
            of,
            shape,
            file_bytes: bytes.len(),
            ours: (0..several).map(|_| pack(results, columns)).collect::<Result<_, _>>()?,
            // Candle holds two copies of some.
            candles: (0..if with_candle { several.div_ceil(2) } else { 0 })
                .map(|_| blocks())
                .collect::<Result<_, _>>()?,
            small: pack(SMALL[0], columns.min(SMALL[1]))?,
        })
    }

    /// Products with this many rows.
    fn measure(&self, options: &Options, rows: usize, copy: &mut Copy) -> Result<Value, Box<dyn Error>> {
        let Self { of, shape: [results, columns], ours, candles, small, .. } = self;
        let isa = options.isa;
        let x = numbers(rows * columns);
        let tensor = Tensor::from_slice(&x, (rows, *columns), &Device::Cpu)?;
        let (mut y, mut next, mut next_candle) = (vec![0.0; rows * results], 0, 0);
        let (small_x, mut small_y) =
            (numbers(SMALL_ROWS * small.columns()), vec![0.0; SMALL_ROWS * SMALL[0]]);
        let mut cases = vec![
            Case::new(|| {
                next = (next + 1) % ours.len();
                product(isa, &ours[next], &x, &mut y)
            }),
            Case::new(|| product(isa, small, &small_x, &mut small_y)),
        ];
        if !candles.is_empty() {
            cases.push(Case::new(|| {
                next_candle = (next_candle + 1) % candles.len();
                candles_product(*of, &candles[next_candle], &tensor)
            }));
        }
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
        for _ in 0..options.rounds {
            cases.iter_mut().try_for_each(Case::round)?;
        }
        let seconds: Vec<f64> = cases.iter_mut().map(Case::median).collect();
        drop(cases);
        Ok(self.report(rows, &seconds))
    }

    /// Of the seconds of our product, that in the cache, Candle's, if there is one, and, with one row, of reading and
    /// copying.
    fn report(&self, rows: usize, seconds: &[f64]) -> Value {
        let Self { of, shape: [results, columns], file_bytes, ours, candles, small } = self;
        let held = ours.first().map_or(0.0, |matrix| matrix.bytes() as f64);
        let mut report = json!({
            "type": format!("{of:?}"), "results": results, "columns": columns, "rows": rows,
            "bytes_per_file_byte": held / *file_bytes as f64,
            "microseconds": seconds[0] * 1e6,
            "gigabytes_per_second": held / seconds[0] / 1e9,
            "gigaoperations_per_second": (2 * rows * results * columns) as f64 / seconds[0] / 1e9,
            "cached_gigaoperations_per_second":
                (2 * SMALL_ROWS * SMALL[0] * small.columns()) as f64 / seconds[1] / 1e9,
        });
        if !candles.is_empty() {
            report["times_candle"] = json!(seconds[2] / seconds[0]);
        }
        if let (1, [.., reading, copying]) = (rows, seconds) {
            report["read_gigabytes_per_second"] = json!(MEMORY as f64 / reading / 1e9);
            report["copy_gigabytes_per_second"] = json!(2.0 * MEMORY as f64 / copying / 1e9);
        }
        report
    }
}

fn product(isa: Isa, matrix: &PackedMatrix, x: &[f32], results: &mut [f32]) -> Result<(), Box<dyn Error>> {
    let output = Output { layer: Affine { matrix, bias: None }, results, add: false };
    Ok(multiply(isa, Input { values: x, norm: None }, &mut [output])?)
}

/// Dense weights are widened each time, as Candle has no product of f32 with them.
fn candles_product(of: WeightType, weights: &QTensor, x: &Tensor) -> Result<(), Box<dyn Error>> {
    if of.is_dense() {
        let weights = weights.dequantize(&Device::Cpu)?.to_dtype(DType::F32)?;
        std::hint::black_box(x.matmul(&weights.t()?)?);
    } else {
        std::hint::black_box(x.apply_op1_no_bwd(weights)?);
    }
    Ok(())
}
