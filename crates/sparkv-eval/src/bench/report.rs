//! A benchmark as programs and as people read it.

use std::fmt::Write;
use std::time::Instant;

use bytesize::ByteSize;
use serde::Serialize;

use super::{Decode, Machine, Memory, Prefill, Speed, memory};

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelReport {
    /// What it is called.
    pub name: String,
    /// Format in which its weights were asked for.
    pub weights: String,
    /// Whether its weights are random.
    pub dummy: bool,
}

/// What it took until the model was ready.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Loading {
    /// From the start of loading on.
    pub seconds: f64,
    /// Bytes that matrices of weights take.
    pub weight_bytes: u64,
    /// Memory of the process afterwards, where the system tells.
    pub resident_bytes: Option<u64>,
    /// The most it ever was so far.
    pub peak_bytes: Option<u64>,
}

impl Loading {
    /// Of a model that is ready now.
    pub fn since(start: Instant, weight_bytes: u64) -> Self {
        let Memory { resident, peak } = memory();
        let seconds = start.elapsed().as_secs_f64();
        Self { seconds, weight_bytes, resident_bytes: resident, peak_bytes: peak }
    }
}

/// A benchmark; what `sparkv bench --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// What it ran on.
    pub machine: Machine,
    /// What ran.
    pub model: ModelReport,
    /// How it came into memory.
    pub loading: Loading,
    /// Prompts.
    pub prefill: Vec<Prefill>,
    /// Generated tokens.
    pub decode: Vec<Decode>,
    /// Most bytes of memory that the process took, loading included, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

impl BenchReport {
    /// Markdown: a line on model and machine, a table for prompts and one for generation.
    pub fn table(&self) -> String {
        let Machine { cpu, arch, threads, cores, .. } = &self.machine;
        let cpu = cpu.as_deref().unwrap_or(arch);
        let weights = if self.model.dummy { "random weights" } else { "weights" };
        let mut text = format!(
            "{}, {weights} {}, {threads} of {cores} cores, {cpu}\n",
            self.model.name, self.model.weights
        );
        let Loading { seconds, weight_bytes, peak_bytes, .. } = self.loading;
        let peak = peak_bytes.map_or_else(String::new, |peak| format!(", at most {} taken", ByteSize(peak)));
        let _ = writeln!(text, "ready after {seconds:.2} s, weights {}{peak}", ByteSize(weight_bytes));
        if !self.prefill.is_empty() {
            text.push_str("\n| prompt | kv_cache | tokens/s | min to max | weights | attention | rest ");
            text.push_str("| attention GFLOP/s |\n");
            text.push_str("|---:|---|---:|---:|---:|---:|---:|---:|\n");
            for Prefill { kv, tokens, speed, attention_gflops } in &self.prefill {
                let columns = columns(speed);
                let _ = writeln!(text, "| {tokens} | {kv} | {columns} | {attention_gflops:.1} |");
            }
        }
        if !self.decode.is_empty() {
            text.push_str("\n| depth | kv_cache | tokens/s | min to max | weights | attention | rest ");
            text.push_str("| KV bytes (of dense f16) | resident |\n");
            text.push_str("|---:|---|---:|---:|---:|---:|---:|---:|---:|\n");
            for row in &self.decode {
                let share = 100.0 * row.kv_bytes as f64 / row.kv_dense_bytes.max(1) as f64;
                let held = ByteSize(row.kv_bytes);
                let resident = row.resident_bytes_after.zip(row.resident_bytes_before).map_or_else(
                    || "unknown".to_owned(),
                    |(after, before)| format!("+{}", ByteSize(after.saturating_sub(before))),
                );
                let columns = columns(&row.speed);
                let _ = writeln!(
                    text,
                    "| {} | {} | {columns} | {held} ({share:.0} %) | {resident} |",
                    row.depth, row.kv
                );
            }
        }
        if let Some(peak) = self.peak_rss_bytes {
            let _ = writeln!(text, "\npeak memory: {}", ByteSize(peak));
        }
        text
    }
}

/// The columns from tokens/s to rest.
fn columns(Speed { tokens_per_second, spread, milliseconds }: &Speed) -> String {
    let part = |part: f64| format!("{part:.2} ms ({:.0} %)", 100.0 * part / milliseconds.total.max(1e-9));
    format!(
        "{tokens_per_second:.2} | {:.2} to {:.2} | {} | {} | {}",
        spread.min,
        spread.max,
        part(milliseconds.weights),
        part(milliseconds.attention),
        part(milliseconds.rest)
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Split, Spread};
    use super::*;

    #[test]
    fn a_report_is_two_tables() {
        let speed = Speed {
            tokens_per_second: 20.0,
            spread: Spread { min: 19.5, max: 21.0 },
            milliseconds: Split { total: 50.0, weights: 40.0, attention: 5.0, rest: 5.0 },
        };
        let report = BenchReport {
            machine: Machine {
                cpu: Some("A CPU".to_owned()),
                arch: "x86_64",
                os: "linux",
                cores: 4,
                threads: 2,
                memory_bytes: None,
            },
            model: ModelReport { name: "small".to_owned(), weights: "q8_0".to_owned(), dummy: true },
            loading: Loading {
                seconds: 1.5,
                weight_bytes: 1 << 20,
                resident_bytes: Some(2 << 20),
                peak_bytes: Some(2 << 20),
            },
            prefill: vec![Prefill { kv: "exact".to_owned(), tokens: 512, speed, attention_gflops: 99.0 }],
            decode: vec![Decode {
                kv: "tiny".to_owned(),
                depth: 1024,
                speed,
                kv_bytes: 512 * 1024,
                kv_dense_bytes: 2048 * 1024,
                resident_bytes_before: Some(1 << 20),
                resident_bytes_after: Some((1 << 20) + 520 * 1024),
            }],
            peak_rss_bytes: Some(3 << 20),
        };
        let expected = "\
small, random weights q8_0, 2 of 4 cores, A CPU
ready after 1.50 s, weights 1.0 MiB, at most 2.0 MiB taken

| prompt | kv_cache | tokens/s | min to max | weights | attention | rest | attention GFLOP/s |
|---:|---|---:|---:|---:|---:|---:|---:|
| 512 | exact | 20.00 | 19.50 to 21.00 | 40.00 ms (80 %) | 5.00 ms (10 %) | 5.00 ms (10 %) | 99.0 |

| depth | kv_cache | tokens/s | min to max | weights | attention | rest | KV bytes (of dense f16) | resident |
|---:|---|---:|---:|---:|---:|---:|---:|---:|
| 1024 | tiny | 20.00 | 19.50 to 21.00 | 40.00 ms (80 %) | 5.00 ms (10 %) | 5.00 ms (10 %) | 512.0 KiB (25 %) | +520.0 KiB |

peak memory: 3.0 MiB
";
        assert_eq!(report.table(), expected);
    }
}
