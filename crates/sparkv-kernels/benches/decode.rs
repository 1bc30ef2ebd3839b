//! Decode attention over each storage of the cache, side by side: nanoseconds per stored token and KV head, and how
//! many times faster than dense f16 and dense int8.
//!
//! All formats take turns, round by round, so that ratios hold on a noisy machine; medians are printed, as JSON.
//! `cargo bench -p sparkv-kernels --bench decode -- [--tokens 32768] [--head-dim 128] [--group 4] [--threads 1,2]
//! [--rounds 9] [--only part-of-a-name] [--isa scalar|avx2|avx512|neon|dotprod]`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::ops::Range;
use std::time::Instant;

use sparkv_kernels::{
    BLOCK, Fill, Format, Isa, KeptFormat, KvRun, Layout, LayoutError, Packing, QueryTile, Rows, Side,
    TileScratch, Widths, attend_tile_with, dense, quantize,
};

/// Rows a thread takes at a time.
const PART: usize = 1024;

/// Tokens that are gone over for a measurement, again and again if there are fewer.
const MIN_TOKENS: usize = 32768;

/// Bytes of a line of the processor's cache.
const LINE: usize = 64;

struct Case {
    name: &'static str,
    keys: Store,
    values: Store,
    scaled: bool,
}

struct Store {
    layout: Layout,
    memory: Vec<u8>,
    rows: Range<usize>,
}

impl Store {
    /// Random rows; a block of them is repeated, since time does not depend on values.
    fn new(side: Side, head_dim: usize, format: Format, tokens: usize) -> Result<Self, LayoutError> {
        let layout = Layout::new(side, head_dim, format)?;
        let mut state = 1u32;
        let rows: Vec<f32> = (0..BLOCK * head_dim)
            .map(|_| {
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f64::from(state >> 8) / f64::from(1 << 24) - 0.5
                };
                // Nearly normal.
                (0..6).map(|_| next()).sum::<f64>() as f32
            })
            .collect();
        let mut block = vec![0; layout.bytes(BLOCK)];
        if layout.is_quantized() {
            quantize(&layout, &rows, &[], &mut block);
        } else {
            let rows = rows.chunks_exact(head_dim).enumerate();
            rows.for_each(|(index, row)| dense::write_row(&layout, row, &mut block, index));
        }
        // As a cache does, the rows begin with a line of the processor's cache.
        let len = tokens / BLOCK * block.len();
        let mut memory = vec![0; len + LINE];
        let start = memory.as_ptr().align_offset(LINE);
        memory[start..start + len].copy_from_slice(&block.repeat(tokens / BLOCK));
        Ok(Self { layout, memory, rows: start..start + len })
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.rows.clone()]
    }

    fn rows(&self, tokens: usize) -> Rows<'_> {
        Rows::new(self.layout, self.bytes(), tokens)
    }
}

fn cases(head_dim: usize, tokens: usize, only: &str) -> Result<Vec<Case>, LayoutError> {
    let packed = |ratio| {
        [Fill::RootMeanSquare, Fill::MeanMagnitude].map(|fill| {
            Packing::new(head_dim, ratio, KeptFormat::Int8, fill).map_or(Format::Int8, Format::Packed)
        })
    };
    let same = |format| [format, format];
    let planes = |widths: Option<Widths>| widths.map_or(Format::Int8, Format::Planes);
    let bits = |bits| same(planes(Widths::uniform(bits, head_dim)));
    // Eighths of the channels with 6, 4 and 2 bits.
    let query = |eighths: [usize; 3]| {
        let channels = [6, 4, 2].into_iter().zip(eighths.map(|eighths| eighths * head_dim / 8));
        planes(Widths::allotted(&channels.collect::<Vec<_>>()))
    };
    let formats = [
        ("dense f32", same(Format::F32)),
        ("dense f16", same(Format::F16)),
        ("int8", same(Format::Int8)),
        ("int6", bits(6)),
        ("int5", bits(5)),
        ("int4", bits(4)),
        ("int3", bits(3)),
        ("int2", bits(2)),
        ("query 4, int4", [query([2, 4, 2]), bits(4)[1]]),
        ("query 3, int3", [query([1, 3, 3]), bits(3)[1]]),
        ("query 2, int2", [query([0, 3, 2]), bits(2)[1]]),
        ("packed .8, int8 kept", packed(0.8)),
        ("packed .75, int8 kept", packed(0.75)),
        ("packed .5, int8 kept", packed(0.5)),
        ("keys packed .8, int8; values int8", [packed(0.8)[0], Format::Int8]),
    ];
    let store = |side, format| Store::new(side, head_dim, format, tokens);
    formats
        .into_iter()
        .filter(|(name, _)| only.is_empty() || *name == only)
        .map(|(name, [keys, values])| {
            Ok(Case {
                name,
                keys: store(Side::Keys, keys)?,
                values: store(Side::Values, values)?,
                scaled: !matches!(keys, Format::F32 | Format::F16 | Format::Int8),
            })
        })
        .collect()
}

/// Seconds of attention of one token over all rows.
fn seconds(isa: Isa, case: &Case, tokens: usize, queries: &[f32], threads: usize) -> f64 {
    let visible = vec![0..tokens; queries.len() / case.keys.layout.head_dim()];
    let tile = QueryTile {
        head_dim: case.keys.layout.head_dim(),
        queries,
        scaled_queries: queries,
        scaled_offsets: &[],
        visible: &visible,
    };
    let run = [KvRun { keys: case.keys.rows(tokens), values: case.values.rows(tokens), scaled: case.scaled }];
    let passes = (MIN_TOKENS / tokens).max(1);
    let work = &|thread: usize| {
        let mut scratch = TileScratch::default();
        for _ in 0..passes {
            for part in (thread * PART..tokens).step_by(threads * PART) {
                std::hint::black_box(attend_tile_with(isa, &tile, &run, part..part + PART, &mut scratch));
            }
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        (1..threads).for_each(|thread| drop(scope.spawn(move || work(thread))));
        work(0);
    });
    start.elapsed().as_secs_f64() / passes as f64
}

/// Bytes a second that `threads` threads read from memory.
fn bandwidth(memory: &[u64], threads: usize) -> f64 {
    let start = Instant::now();
    let total: u64 = std::thread::scope(|scope| {
        let parts = memory.chunks(memory.len().div_ceil(threads));
        let sums: Vec<_> = parts
            .map(|part| {
                scope.spawn(move || {
                    let (lanes, _) = part.as_chunks::<32>();
                    let mut sums = [0u64; 32];
                    for lane in lanes {
                        sums.iter_mut().zip(lane).for_each(|(sum, value)| *sum ^= value);
                    }
                    sums.iter().fold(0, |a, b| a ^ b)
                })
            })
            .collect();
        sums.into_iter().map(|sum| sum.join().unwrap_or(0)).sum()
    });
    std::hint::black_box(total);
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: &str| -> String {
        let position = arguments.iter().position(|argument| argument == name);
        position.and_then(|position| arguments.get(position + 1)).map_or(default, |value| value).to_owned()
    };
    let number = |name, default| option(name, default).parse::<usize>();
    let tokens = number("--tokens", "32768")?.next_multiple_of(BLOCK);
    let (head_dim, group, rounds) =
        (number("--head-dim", "128")?, number("--group", "4")?, number("--rounds", "9")?);
    let queries: Vec<f32> = (0..group * head_dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 300.0).collect();
    let cases = cases(head_dim, tokens, &option("--only", ""))?;
    let isa = option("--isa", Isa::best().name());
    let isa =
        Isa::available().into_iter().find(|set| set.name() == isa).ok_or("no such instruction set here")?;
    let memory = vec![1u64; 1 << 25];
    let mut results = Vec::new();
    for threads in option("--threads", "1,2").split(',') {
        let threads: usize = threads.parse()?;
        let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut bandwidths = Vec::new();
        for round in 0..rounds {
            if round < 9 {
                bandwidths.push(bandwidth(&memory, threads));
            }
            for case in &cases {
                times.entry(case.name).or_default().push(seconds(isa, case, tokens, &queries, threads));
            }
        }
        let bandwidth = median(bandwidths);
        let ratio = |to: &str, name: &str| {
            let Some(others) = times.get(to) else { return f64::NAN };
            median(others.iter().zip(&times[name]).map(|(a, b)| a / b).collect())
        };
        for case in &cases {
            let bytes = (case.keys.bytes().len() + case.values.bytes().len()) as f64 / tokens as f64;
            let nanoseconds = median(times[case.name].clone()) * 1e9 / tokens as f64;
            let fastest =
                times[case.name].iter().copied().fold(f64::INFINITY, f64::min) * 1e9 / tokens as f64;
            results.push(format!(
                "  {{\"threads\": {threads}, \"format\": \"{}\", \"bytes\": {bytes:.1}, \"ns\": {nanoseconds:.2}, \"ns_min\": {fastest:.2}, \
                 \"x_f16\": {:.2}, \"x_int8\": {:.2}, \"share_of_bandwidth\": {:.2}}}",
                case.name,
                ratio("dense f16", case.name),
                ratio("int8", case.name),
                bytes / nanoseconds / (bandwidth / 1e9),
            ));
        }
        results.push(format!("  {{\"threads\": {threads}, \"read_bandwidth\": {bandwidth:.3e}}}"));
    }
    writeln!(
        std::io::stdout(),
        "{{\"isa\": \"{}\", \"tokens\": {tokens}, \"head_dim\": {head_dim}, \"group\": {group}, \"rows\": [\n{}\n]}}",
        isa.name(),
        results.join(",\n")
    )?;
    Ok(())
}
