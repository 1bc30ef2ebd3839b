//! Prompt attention over the dense f16 cache: GFLOP/s (causal count: 4 * head_dim for every query and row it sees).
//!
//! `cargo bench -p sparkv-kernels --bench prefill`

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use sparkv_kernels::{
    Format, KEY_BLOCK, KvRun, Layout, QueryTile, Rows, Side, TileScratch, attend_tile, dense,
};

/// Query heads that share the KV head.
const GROUP: usize = 4;

/// Positions of a tile.
const POSITIONS: usize = 16;

/// Measurements, of which the median is printed.
const ROUNDS: usize = 5;

fn rows(side: Side, head_dim: usize, tokens: usize) -> Result<(Layout, Vec<u8>), Box<dyn Error>> {
    let layout = Layout::new(side, head_dim, Format::F16)?;
    let mut bytes = vec![0; layout.bytes(tokens)];
    for token in 0..tokens {
        let row: Vec<f32> = (0..head_dim).map(|c| ((token * 31 + c * 17) % 97) as f32 / 97.0 - 0.5).collect();
        dense::write_row(&layout, &row, &mut bytes, token);
    }
    Ok((layout, bytes))
}

fn main() -> Result<(), Box<dyn Error>> {
    for head_dim in [64, 128] {
        for tokens in [512, 8192] {
            let (keys, key_bytes) = rows(Side::Keys, head_dim, tokens)?;
            let (values, value_bytes) = rows(Side::Values, head_dim, tokens)?;
            let run = [KvRun {
                keys: Rows::new(keys, &key_bytes, tokens),
                values: Rows::new(values, &value_bytes, tokens),
                scaled: false,
            }];
            let queries: Vec<f32> =
                (0..POSITIONS * GROUP * head_dim).map(|i| (i % 89) as f32 / 400.0 - 0.1).collect();
            let mut scratch = TileScratch::default();
            let mut speeds: Vec<f64> = (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    let mut flops = 0.0;
                    // Every eighth tile of a long prompt is enough.
                    for first in (0..tokens).step_by(POSITIONS * (tokens / 1024).max(1)) {
                        let ends = (first..first + POSITIONS).flat_map(|token| [token + 1; GROUP]);
                        let visible: Vec<_> = ends.map(|end| 0..end).collect();
                        flops +=
                            visible.iter().map(|range| 4.0 * (range.len() * head_dim) as f64).sum::<f64>();
                        let tile = QueryTile {
                            head_dim,
                            queries: &queries,
                            scaled_queries: &[],
                            scaled_offsets: &[],
                            visible: &visible,
                        };
                        for part in (0..first + POSITIONS).step_by(16 * KEY_BLOCK) {
                            let rows = part..part + 16 * KEY_BLOCK;
                            std::hint::black_box(attend_tile(&tile, &run, rows, &mut scratch));
                        }
                    }
                    flops / start.elapsed().as_secs_f64() / 1e9
                })
                .collect();
            speeds.sort_by(f64::total_cmp);
            writeln!(
                std::io::stdout(),
                "{{\"head_dim\": {head_dim}, \"tokens\": {tokens}, \"threads\": 1, \"gflops\": {:.1}, \"fastest\": {:.1}}}",
                speeds[ROUNDS / 2],
                speeds[ROUNDS - 1]
            )?;
        }
    }
    Ok(())
}
